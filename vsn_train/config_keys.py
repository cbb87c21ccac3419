"""What every config key means: name, type, default, unit and description, read from the schema in config.py.

The description of a key is the comment on its line and the comment lines directly above it. Where the value is a number
it starts with the unit in square brackets: `# [seconds] time limit of …`. `--help` and docs/reference/config.md are
made from it, so neither can disagree with the schema.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from omegaconf import MISSING

from vsn_train import config as schema
from vsn_train.data import protocol

WIDTH = 80  # columns of the help
# The groups in the order of the help, with the schemas that a choice of the group may have.
GROUPS: dict[str, tuple[str, tuple[type, ...]]] = {
    "dataset": ("the videos and their labels", (
        schema.Dataset, schema.Motion, schema.Official, schema.OfficialSplits, schema.Custom, schema.OwnDataset)),
    "backbone": ("the 2D network and its operator", (
        schema.Backbone, schema.Tsm, schema.TsmOnline, schema.Vsn, schema.Sth, schema.OwnOperator)),
    "protocol": ("the views of a test", (protocol.Protocol,)),
    "validation": ("the views of the validation during training", (protocol.Protocol,)),
    "data": ("reading videos: batch size, workers, sizes", (schema.Data,)),
    "augment": ("augmentation of training clips", (schema.Augment,)),
    "optimizer": ("optimizer, learning rate, batch size", (schema.Optimizer, schema.Sgd, schema.AdamW)),
    "schedule": ("number of epochs and learning rate schedule", (schema.Schedule, schema.Step, schema.Multistep)),
    "checkpoints": ("when to save, and what to keep", (schema.Checkpoints,)),
    "runtime": ("device, processes, precision, memory", (schema.Runtime,)),
}  # fmt: skip
COMMANDS: dict[str, type] = {"train": schema.Train, "eval": schema.Eval, "predict": schema.Predict}
# For a schema that not all choices of its group have: those that do.
CHOICES: dict[type, str] = {
    schema.Motion: "motion, motion_static, motion_order",
    schema.Official: "something_v1, something_v2, jester, kinetics400, ucf101, hmdb51",
    schema.OfficialSplits: "ucf101, hmdb51",
    schema.Custom: "custom",
    schema.OwnDataset: "your own loader",
    schema.Tsm: "tsm",
    schema.TsmOnline: "tsm_online",
    schema.Vsn: "vsn_compact, vsn_headtail",
    schema.Sth: "sth",
    schema.OwnOperator: "your own operator",
    schema.Sgd: "sgd",
    schema.AdamW: "adamw",
    schema.Step: "step",
    schema.Multistep: "multistep",
}


@dataclass(frozen=True)
class Key:
    """One key of a schema. unit: empty unless the value is a number. description: one line."""

    name: str
    type: str
    default: str
    unit: str
    description: str


@cache
def keys_of(kind: type) -> tuple[Key, ...]:
    """The keys that a schema class adds to its base, or gives another default; in the order of the file."""
    comments, hints = _comments(kind), get_type_hints(kind)
    inherited = {key.name: key for base in kind.__mro__[1:-1] for key in keys_of(base)}
    found = []
    for each in dataclasses.fields(kind):
        if each.name not in inspect.get_annotations(kind):
            continue
        unit, description = comments.get(each.name) or ("", "")
        if not description and each.name in inherited:
            unit, description = inherited[each.name].unit, inherited[each.name].description
        found.append(Key(each.name, _type_name(hints[each.name]), _default(each), unit, description))
    return tuple(found)


@cache
def _comments(kind: type) -> dict[str, tuple[str, str]]:
    """Field -> unit and description, from the source of the class."""
    module = inspect.getmodule(kind)
    assert module is not None
    lines, tree = _source(module)
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    comments = {}
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        number = node.lineno - 2
        while (line := lines[number].strip()).startswith("#"):
            above.insert(0, line.lstrip("# "))
            number -= 1
        end = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset :].decode()
        text = " ".join([*above, *([end.partition("#")[2].strip()] if "#" in end else [])])
        match = re.fullmatch(r"(?:\[([^\]]+)\] ?)?(.*)", text)
        assert match is not None
        comments[node.target.id] = (match[1] or "", match[2])
    return comments


@cache
def _source(module: ModuleType) -> tuple[list[str], ast.Module]:
    text = Path(inspect.getfile(module)).read_text(encoding="utf-8")
    return text.splitlines(), ast.parse(text)


def _type_name(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    return text.replace("typing.", "").replace("None", "null").replace("Any", "any")


def _default(each: dataclasses.Field[Any]) -> str:
    value = each.default
    if each.default_factory is not dataclasses.MISSING:
        value = each.default_factory()
    return shown(value)


def shown(value: Any) -> str:
    """A value as it is typed on the command line; empty where there is none."""
    if value is dataclasses.MISSING or value == MISSING:
        return ""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(shown(each) for each in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def top_keys(command: str) -> list[Key]:
    """The keys of vsn-<command> that are in no group."""
    return [key for key in keys_of(COMMANDS[command]) if key.name not in GROUPS]


def groups_of(command: str) -> list[str]:
    """The groups of vsn-<command>, in the order of the help."""
    return [group for group in GROUPS if group in {each.name for each in dataclasses.fields(COMMANDS[command])}]


def overview(command: str, choices: Mapping[str, Sequence[str]]) -> str:
    """The groups of vsn-<command>, collapsed, and its other keys. choices: of each group that has files to choose."""
    lines = [f"Groups: choose with group=name; vsn-{command} --help data lists the keys of data", ""]
    for group in groups_of(command):
        lines += wrapped(f"{group:<12}", ", ".join(choices.get(group, ())) or GROUPS[group][0], "  ")
    if recipes := choices.get("experiment"):
        lines += wrapped("experiment  ", f"{len(recipes)} recipes, one per published result: --help experiment", "  ")
    keys = top_keys(command)
    lines += ["", "Other keys: change with key=value", ""]
    values = {key.name: key.default or MISSING for key in keys}
    return "\n".join([*lines, *(line for key in keys for line in _help_lines(key.name, key, values))])


def help_of_group(group: str, values: Mapping[str, Any], choices: Sequence[str]) -> str:
    """The keys of one group for a terminal. values: the composed config of the group, whose values are shown."""
    about, kinds = GROUPS[group]
    lines = [f"{group}: {about}"]
    if len(choices) > 1:
        lines += ["", *wrapped(f"choose with {group}=: ", ", ".join(choices))]
    told: set[str] = set()
    for kind in kinds:
        if keys := [key for key in keys_of(kind) if key.name in values and key.name not in told]:
            lines += ["", *([f"  with {CHOICES[kind]}:"] if kind in CHOICES else [])]
            lines += [line for key in keys for line in _help_lines(f"{group}.{key.name}", key, values)]
            told |= {key.name for key in keys}
    return "\n".join(lines)


def _help_lines(name: str, key: Key, values: Mapping[str, Any]) -> list[str]:
    value = shown(values[key.name]) or "…"
    unit = f" [{key.unit}]" if key.unit else ""
    margin = " " * 6
    return [
        f"  {name}={value}{unit}",
        *textwrap.wrap(key.description, WIDTH, initial_indent=margin, subsequent_indent=margin),
    ]


def wrapped(title: str, text: str, indent: str = "") -> list[str]:
    """`title` and `text` in lines of at most 80 columns, the following ones indented to the text."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent + title, subsequent_indent=indent + " " * len(title),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def markdown_reference() -> str:
    """docs/reference/config.md."""
    parts = [
        "# Config keys\n\nEvery key of the three commands that train, evaluate and predict. Change a value with "
        "`key=value`, choose a file of a group with `group=name`; `vsn-train --help data` prints one group in the "
        "terminal. The defaults are those of the schema: the choice of a group and the data set's experiment file may "
        "set others, and `vsn-train dataset=ucf101 --cfg job` prints the config that would run. An empty default means "
        "that the value has to be given or is set by the choice. `make reference` writes this page from the comments "
        "in `vsn_train/config.py`."
    ]
    titles = {"train": "vsn-train", "eval": "vsn-eval", "predict": "vsn-predict"}
    for command, title in titles.items():
        parts.append(f"## {title}\n\n{_markdown_table(top_keys(command))}")
    parts.append(
        "vsn-eval and vsn-predict take the groups `backbone`, `protocol`, `data` and `runtime` from the checkpoint, "
        "vsn-eval the group `dataset` too; what is given on the command line wins."
    )
    for group, (about, kinds) in GROUPS.items():
        parts.append(f"## {group}\n\n{about[0].upper()}{about[1:]}.")
        for kind in kinds:
            if kind is protocol.Protocol and group == "validation":
                parts.append("The same keys as `protocol`, whose values they have by default.")
                continue
            if kind in CHOICES:
                names = CHOICES[kind]
                chosen = names if names.startswith("your") else f"`{group}={names.replace(', ', '`, `')}`"
                parts.append(f"With {chosen}:")
            parts.append(_markdown_table(keys_of(kind)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(keys: Sequence[Key]) -> str:
    rows = ["| key | description | type | default | unit |", "|---|---|---|---|---|"]
    for key in keys:
        cells = [f"`{key.name}`", key.description, key.type, f"`{key.default}`" if key.default else "", key.unit]
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_reference(), end="")
