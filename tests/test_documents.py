"""The documents hold what they say: commands, keys, files, links, and the two worked examples.

Every command is composed or parsed as the program itself would do it. What needs nothing but this repository is run:
the worked examples here, the rest by `make test-slow`. Paths under /data and /fast, and lines with "# needs …", stand
for what the reader brings.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tests.conftest import SMALL
from tests.media import write_counting_video
from tests.runs import checkpoint_with
from vsn_train import cli, config_keys
from vsn_train import config as schema
from vsn_train.engine.checkpoint import save_checkpoint
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.backbone import placement
from vsn_train.models.layouts import mixing_of
from vsn_train.models.weights import load_weights
from vsn_train.tools import main as tools
from vsn_train.typed_paths import hydra_words

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md"))
)
COMMANDS = ("vsn-train", "vsn-eval", "vsn-predict")
TOOLS = "vsn-tools"
SHELL = ("", "bash", "sh", "console")
# Groups whose choice brings other keys. Of the others only the file's existence is asked: test_configs.py composes all.
SCHEMA_GROUPS = ("dataset", "backbone", "optimizer", "schedule")
GROUPS = tuple(sorted(path.name for path in CONFIGS.iterdir() if path.is_dir()))


@dataclass(frozen=True)
class Block:
    """A block of code: the language of its fence ("" without one or where it is indented), and its first line."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A line that runs one of our programs, its variables filled in."""

    document: str
    line: int
    program: str  # "vsn-train", …, "vsn-tools", or "scripts/NAME.py"
    arguments: tuple[str, ...]
    needs: bool  # what the reader brings

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}: {self.program} {' '.join(self.arguments)}"


@cache
def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@cache
def blocks_of(document: str) -> tuple[Block, ...]:
    blocks, lines, number = [], text_of(document).splitlines(), 0
    while number < len(lines):
        start, fence = number, re.match(r"\s*```(\w*)\s*$", lines[number])
        body: list[str] = []
        number += 1
        if fence:
            while lines[number].strip() != "```":
                body.append(lines[number])
                number += 1
            number += 1
            blocks.append(Block(fence[1], "\n".join(body), start + 2))
        elif lines[start].startswith("    ") and (start == 0 or not lines[start - 1].strip()):
            body.append(lines[start][4:])
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                body.append(lines[number][4:])
                number += 1
            blocks.append(Block("", "\n".join(body).rstrip(), start + 1))
    return tuple(blocks)


def prose_of(document: str) -> str:
    """The document without its blocks."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", text_of(document), flags=re.M | re.S)
    return re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", text)


def code_spans(document: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(document))]


@cache
def commands_of(document: str) -> list[Command]:
    found: list[Command] = []
    for block in blocks_of(document):
        if block.language in SHELL:
            joined = re.sub(r"\\\n\s*", " ", block.text)
            for number, line in enumerate(joined.splitlines()):
                found += commands_in(document, block.line + number, filled_in(line, joined))
    for span in code_spans(document):
        if span.startswith(tuple(f"{name} " for name in (*COMMANDS, TOOLS))):
            found += commands_in(document, 0, span)
    return found


def filled_in(line: str, block: str) -> str:
    """The line with the block's own variables: `for n in 1 2 3`, `run=runs/mine`."""
    for name in set(re.findall(r"\$\{?(\w+)\}?", line)):
        value = re.search(rf"\bfor {name} in ([^\s;]+)", block) or re.search(rf"\b{name}=([^\s;$]+)", block)
        if value:
            line = re.sub(rf"\$\{{?{name}\}}?", value[1], line)
    return line


def commands_in(document: str, number: int, line: str) -> list[Command]:
    """The command that a line runs, itself or through a launcher."""
    line = line.replace("$(which vsn-train)", "vsn-train")
    first = line.split()[:1]
    if not first or not re.fullmatch(
        r"(\S+/)?(vsn-train|vsn-eval|vsn-predict|vsn-tools|\w+\.py|python|srun|torchrun)", first[0]
    ):
        return []
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []  # the output of a program, not a command
    for at, word in enumerate(words):
        name = word.rpartition("/")[2]
        program = name if name in (*COMMANDS, TOOLS) else word if re.fullmatch(r"scripts/[\w/]+\.py", word) else ""
        if program:
            rest = words[at + 1 :]
            end = next((i for i, each in enumerate(rest) if each in (";", "&&", "||", "|", ">", "&")), len(rest))
            arguments = tuple(rest[:end])
            needs = bool(re.search(r"# needs |/data/|/fast/", line)) or "…" in line or any(map(str.isupper, arguments))
            return [Command(document, number, program, arguments, needs)]
    return []


ALL_COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]


def files_of(document: str, folder: Path) -> None:
    """Write the files that a document shows: blocks that begin with a comment of nothing but a path."""
    for block in blocks_of(document):
        first, _, _ = block.text.partition("\n")
        if block.language in ("python", "yaml") and (name := re.fullmatch(r"# ([\w/.]+\.\w+)", first)):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """(program, choices, own configs, checkpoint's choices) -> config; a new copy each time."""
    schema.register_schemas()
    for name in ("run_folder", "checkpoint_folder", "overview"):
        OmegaConf.register_new_resolver(name, lambda *_: "run", replace=True)

    @cache
    def compose(program: str, choices: tuple[str, ...], own: str | None, trained: tuple[str, ...]) -> DictConfig:
        if program != "train":
            schema.register_checkpoint(schema.plain(OmegaConf.to_object(compose("train", trained, own, ()))))
        overrides = [*choices, *([f"hydra.searchpath=['file://{own}']"] if own else [])]
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose(program, overrides)

    return lambda *arguments: compose(*arguments).copy()


def check_values(
    program: str, arguments: tuple[str, ...], folder: Path, composed, trained: tuple[str, ...] = ()
) -> None:
    """Raise what the program would raise for these arguments before it touches any data."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--config-dir")
    flags.add_argument("--cfg", choices=["job"])
    for flag in ("--multirun", "--help", "--version"):
        flags.add_argument(flag, action="store_true")
    flags.add_argument("--shell-completion")
    known, words = flags.parse_known_args(arguments)
    if known.help and words and "=" not in words[0]:  # --help GROUP; in a sentence also that word itself
        assert words[0] in ("GROUP", "experiment", *config_keys.groups_of(program))
        words = words[1:]
    words = hydra_words(words, schema.PATHS, schema.PATH_LISTS, cli.POSITIONAL[program])
    own = folder / known.config_dir if known.config_dir else None
    assert own is None or own.is_dir(), f"{known.config_dir}: the document shows no file in it"
    words = [word.replace("…", "x") for word in words if word != "…" and not word.endswith("=…")]
    choices, values = [], []
    for override in OverridesParser.create().parse_overrides(words):
        group, value = override.key_or_group, override.value()
        sweep = list(override.sweep_iterator()) if override.is_sweep_override() else [value]
        assert not override.is_add()
        assert known.multirun or len(sweep) == 1
        if group in GROUPS:
            for each in sweep:
                places = [top / group / f"{each}.yaml" for top in (CONFIGS, own) if top]
                assert any(place.is_file() for place in places), f"{group}={each}: no such choice"
            chosen = next(place for place in places if place.is_file())
            chooses = group == "experiment" and "defaults:" in chosen.read_text(encoding="utf-8")
            if group in SCHEMA_GROUPS or chooses:
                choices.append(f"{group}={sweep[0]}")
                if group == "dataset" and not (CONFIGS / "experiment" / f"{sweep[0]}.yaml").is_file():
                    assert any(word.startswith("experiment=") for word in words), f"no experiment for {sweep[0]}"
                    choices.append("experiment=custom")
        elif not group.startswith(("hydra.", "hydra/")):
            values.append(
                (group, OverridesParser.create().parse_override(f"x={sweep[0]}").value() if len(sweep) > 1 else value)
            )
    config = composed(program, tuple(sorted(set(choices))), str(own) if own else None, trained)
    for key, value in values:
        OmegaConf.update(config, key, value)
    {"train": schema.check_train, "eval": schema.check_eval, "predict": schema.check_predict}[program](
        OmegaConf.to_object(config)
    )


def check_command(command: Command, folder: Path, composed) -> None:
    program = command.program.removeprefix("vsn-")
    if program == "train" or {"--help", "--version", "--shell-completion"} & set(command.arguments):
        check_values(program, command.arguments, folder, composed)
        return
    words = hydra_words(command.arguments, schema.PATHS, schema.PATH_LISTS, cli.POSITIONAL[program])
    given = {word.partition("=")[0] for word in words}
    assert given & {"checkpoint"}, "needs checkpoint=…"
    assert program != "predict" or "video" in given, "needs video=…"
    # What the checkpoint was trained on decides which keys there are: one of these has to fit.
    trainings = [("dataset=motion",), ("dataset=ucf101",), ("dataset=custom",)]
    own = next((each.arguments for each in commands_of(command.document) if "--config-dir" in each.arguments), ())
    arguments = command.arguments
    if own and program == "eval":
        trainings = [tuple(each for each in own if each.partition("=")[0] in ("dataset", "backbone", "experiment"))]
        arguments = (*arguments, *own[:2]) if own[0] == "--config-dir" else (*arguments, *own[-2:])
    failures = []
    for trained in trainings:
        try:
            check_values(program, arguments, folder, composed, trained)
            return
        except Exception as error:
            failures.append(error)
    raise failures[0]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_one_that_the_program_takes(document, composed, tmp_path, monkeypatch):
    files_of(document, tmp_path)
    for command in commands_of(document):
        try:
            if command.program in COMMANDS:
                check_command(command, tmp_path, composed)
            elif command.program == TOOLS:
                check_tool(command, tmp_path, composed)
            else:
                parsed = vars(parsed_by_script(command, monkeypatch))
                if overrides := parsed.get("overrides"):  # of scripts that take vsn-train's values
                    check_values("train", tuple(overrides), tmp_path, composed)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{command.place}\n{type(error).__name__}: {error}")


def check_tool(command: Command, folder: Path, composed) -> None:
    """Raise what vsn-tools would raise for these arguments, before its work begins.

    A sentence names a verb, its command or an option without what the verb needs besides.
    """
    verb, *words = command.arguments
    if verb in ("--help", "--version"):
        return
    assert verb in tools.VERBS, f"vsn-tools has no verb {verb}"
    module = importlib.import_module(f"vsn_train.tools.{verb}")
    try:
        parsed = tools.parse(verb, module, words)
    except InputError:
        if command.line:
            raise
        example = EXAMPLE_INPUT.get(" ".join([verb, *words[:1]]), EXAMPLE_INPUT.get(verb, []))
        parsed = tools.parse(verb, module, [*words, *example])
    if verb == "scan":
        own = ["--config-dir", str(parsed.config_dir)] if parsed.config_dir else []
        check_values("train", (*parsed.overrides, *own), folder, composed)
    elif verb == "attention":
        own_keys, values = module.split_arguments(parsed.overrides)
        assert "checkpoint" in own_keys
        check_values(
            "eval", ("checkpoint=last.pt", *values), folder, composed, ("dataset=something_v1", "backbone=sth")
        )


# What a verb needs beside what a sentence says of it.
EXAMPLE_INPUT = {
    "scan": ["dataset=jester"], "check": ["/data"], "split": ["/data"], "prepare": ["/data", "/fast"],
    "flow": ["/data", "/flow"],
    "scores": ["show", "scores.npz"], "scores compare": ["a.npz", "b.npz"], "scores fuse": ["a.npz"],
    "scores submit": ["a.npz"], "scores mean": ["a.npz"], "export": ["--output", "model.onnx"],
    "attention": ["checkpoint=last.pt"], "bench": ["model"], "bench model": [], "bench step": [], "bench table": [],
    "bench loader": ["/data"], "bench eval": ["/data"], "bench live": [],
}  # fmt: skip


class ParsedError(Exception):
    """Carries what a script's own parser made of its arguments out of the script, before its work begins."""


def parsed_by_script(command: Command, monkeypatch) -> argparse.Namespace:
    """Run the script up to its parser, and return what that made of the arguments; the rest is key=value."""
    path = ROOT / command.program
    assert path.is_file(), f"there is no {command.program}"
    with monkeypatch.context() as patched:
        inside: list[str] = []
        for name in ("parse_args", "parse_intermixed_args", "parse_known_args"):
            patched.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name), inside))
        patched.setattr(sys, "argv", [command.program, *command.arguments])
        with pytest.raises(ParsedError) as parsed:
            importlib.import_module(command.program.removesuffix(".py").replace("/", ".")).main()
    found = parsed.value.args[0]
    if isinstance(found, tuple):  # of parse_known_args
        found, found.overrides = found
    assert isinstance(found, argparse.Namespace)
    return found


def stop_after(parse, inside: list[str]):
    """The method `parse`, which then raises ParsedError. inside: not empty while one of these methods calls another."""

    def stopped(self, *arguments, **options):
        if inside:
            return parse(self, *arguments, **options)
        inside.append(parse.__name__)
        try:
            found = parse(self, *arguments, **options)
        finally:
            inside.pop()
        raise ParsedError(found)

    return stopped


@pytest.mark.parametrize("document", DOCUMENTS)
def test_keys_files_targets_and_extras_exist(document):
    """Of what stands in `code`: `group.key` and `group.key=value`, paths of this repository, `make target`."""
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    known = known_keys()
    wrong = []
    for span in code_spans(document):
        key, _, _ = span.partition("=")
        if re.fullmatch(r"[a-z]+(\.[a-z_]+)+", key) and key.split(".")[0] in known and key.split(".")[-1] != "py":
            group, _, rest = key.partition(".")
            if rest.partition(".")[0] not in known[group]:
                wrong.append(f"`{span}`: {group} has no key {rest}")
        elif re.fullmatch(r"(scripts|docs|configs|vsn_train|tests)/[\w/.-]+", word := span.split()[0]):
            if not (ROOT / word).exists():
                wrong.append(f"`{span}`: there is no {word}")
        elif (make := re.fullmatch(r"make ([\w-]+)", span)) and not re.search(rf"^{make[1]}:", makefile, re.M):
            wrong.append(f"`{span}`: not in the Makefile")
    wrong += [
        f"vsn-train[{extra}]: no such extra"
        for extra in re.findall(r"vsn-train\[(\w+)\]", text_of(document))
        if not re.search(rf"^{extra} = \[", project, re.M)
    ]
    assert not wrong, "\n".join(wrong)


def known_keys() -> dict[str, set[str]]:
    """Group -> its keys, of all its schemas."""
    types: dict[str, list[type]] = {
        "dataset": [*schema.DATASETS.values(), schema.OwnDataset],
        "backbone": [*schema.BACKBONES.values(), schema.OwnOperator],
        "optimizer": [schema.Sgd, schema.AdamW],
        "schedule": [schema.Schedule, schema.Step, schema.Multistep],
        "protocol": [schema.Protocol],
        "validation": [schema.Protocol],
        "data": [schema.Data],
        "augment": [schema.Augment],
        "checkpoints": [schema.Checkpoints],
        "runtime": [schema.Runtime],
    }
    return {group: {key for each in kinds for key in each.__dataclass_fields__} for group, kinds in types.items()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors_of(file.read_text(encoding="utf-8")):
            wrong.append(f"{target}: no such heading")
    assert not wrong, "\n".join(wrong)


def anchors_of(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_documents_were_found():
    """So that the tests above cannot pass on nothing."""
    programs = {command.program for command in ALL_COMMANDS}
    assert {*COMMANDS, TOOLS, "scripts/studies/claims.py", "scripts/compare_readers.py"} <= programs
    assert len(ALL_COMMANDS) > 30
    assert {"README.md", "CONTRIBUTING.md", "docs/add-an-operator.md", "docs/reference/config.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vsn-train optimizer.lrr=1", "lrr"),
        ("vsn-train dataset=ucf", "no such choice"),
        ("vsn-train seed=abc", "abc"),
        ("vsn-train protocol.crops=4", "crops"),
        ("vsn-eval checkpoint=best.pt protocol=ten", "no such choice"),
        ("vsn-eval protocol=tencrop_10clip", "checkpoint"),
        ("vsn-predict checkpoint=best.pt", "video"),
    ],
)
def test_a_wrong_command_would_be_found(line, message, composed, tmp_path):
    (command,) = commands_in("README.md", 1, line)
    with pytest.raises(Exception, match=message):
        check_command(command, tmp_path, composed)


def test_a_wrong_script_argument_would_be_found(monkeypatch):
    (command,) = commands_in("README.md", 1, "python scripts/plot_runs.py runs/mine --outptu a.png")
    with pytest.raises(SystemExit):
        parsed_by_script(command, monkeypatch)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vsn-tools scna dataset=jester", "no verb scna"),
        ("vsn-tools scan dataset=jester --wrokers 3", "unrecognized arguments: --wrokers"),
        ("vsn-tools scan dataset=jester dataset.rot=x", "rot"),
        ("vsn-tools bench modle", "invalid choice: 'modle'"),
        ("vsn-tools attention dataset=jester", "checkpoint"),
        ("vsn-tools prepare /data/kinetics400", "required: target"),
    ],
)
def test_a_wrong_tool_would_be_found(line, message, composed, tmp_path):
    (command,) = commands_in("README.md", 1, line)
    with pytest.raises(Exception, match=message):
        check_tool(command, tmp_path, composed)


def run_line(line: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A command line of a document, in a shell, as its reader runs it. more: what makes it smaller."""
    environment = os.environ | {
        "HOME": str(folder),  # generated data sets lie under it
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        f"{line} {shlex.join(more)}",
        shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def reader(tmp_path, monkeypatch, capsys):
    """(line of a document, more values) -> (exit code, what was printed), in the reader's folder.

    Runs in this process, which has imported torch already; the commands of other tests are the installed ones.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # generated data sets lie under it
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("time_conv", "diving48"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    commands = {"vsn-train": cli.train, "vsn-eval": cli.evaluate, TOOLS: tools.main}

    def run(line: str, *more: str) -> tuple[int, str]:
        (command,) = commands_in("README.md", 0, line)
        main = commands[command.program]
        monkeypatch.setattr(sys, "argv", [command.program, *command.arguments, *more])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return run


def shell_lines(document: str) -> list[str]:
    return [
        line.partition(" # ")[0].strip()
        for block in blocks_of(document)
        if block.language == "bash"
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines()
    ]


def expected_output(document: str, opening: str) -> str:
    """The one block without a language that begins like this: what the document says a program prints."""
    (text,) = [block.text for block in blocks_of(document) if not block.language and block.text.startswith(opening)]
    return text


def test_add_an_operator_works_as_written(reader, tmp_path, capsys):
    document = "docs/add-an-operator.md"
    files_of(document, tmp_path)
    train, evaluate = [line for line in shell_lines(document) if "runs/time_conv" in line]
    small = ["dataset.train_videos=24", "dataset.val_videos=12", "dataset.num_frames=8"]
    assert reader(train, *small, "data.workers=0", "data.batch_size=8", "runtime.threads=1")[0] == 0
    del sys.modules["time_conv"]
    code, said = reader(evaluate.replace("backbone.operator=time_conv.insert", ""))
    assert code == 2
    assert "time_conv" not in sys.modules
    assert said.split() == expected_output(document, "vsn-eval: ").split()
    code, said = reader(evaluate, "data.workers=0")
    assert code == 0, said
    assert json.loads(Path("runs/time_conv/eval/best/center_1clip/metrics.json").read_text())["n"] == 12

    check = next(block for block in blocks_of(document) if block.text.startswith("import torch"))
    exec(compile(check.text, document, "exec"), {})
    assert capsys.readouterr().out.rstrip() == expected_output(document, "layer1.0 ")


def test_add_a_data_set_works_as_written(reader, tmp_path):
    document = "docs/add-a-data-set.md"
    files_of(document, tmp_path)
    videos = tmp_path / "data/diving48/rgb"
    videos.mkdir(parents=True)
    classes = [["Back", "15som"], ["Forward", "25som"], ["Inward", "15som"]]
    rows = []
    for number in range(9):
        name = f"dive{number}_00001"
        write_counting_video(videos / f"{name}.mp4", 20)
        rows.append({"vid_name": name, "label": number % 3, "start_frame": 0, "end_frame": 20})
    for name, content in {"V2_train": rows[:6], "V2_test": rows[6:], "vocab": classes}.items():
        (tmp_path / f"data/diving48/Diving48_{name}.json").write_text(json.dumps(content))
    scan, train, evaluate = [line for line in shell_lines(document) if "diving48" in line]
    code, said = reader(scan, "--workers", "1")
    assert code == 0, said
    assert "train: 6 videos of 6 listed, 3 classes, 2 to 2 videos per class" in said
    assert reader(train, *SMALL, "schedule.epochs=1", "data.workers=0")[0] == 0
    code, said = reader(evaluate.replace("dataset.loader=diving48.load", ""))
    assert code == 2
    assert "add dataset.loader=diving48.load" in said
    assert reader(evaluate, "data.workers=0")[0] == 0
    metrics = json.loads(Path("runs/diving48/eval/best/center_2clip/metrics.json").read_text())
    assert (metrics["dataset"], metrics["n"]) == ("diving48", 3)


def test_videos_without_a_split_and_rare_classes_work_as_written(reader, tmp_path):
    for split, persons in {"classes": range(4), "mine/train": range(2), "mine/val": (2,)}.items():
        for number, name in enumerate(("dancing", "jumping")):
            (tmp_path / split / name).mkdir(parents=True)
            for person in persons:
                video = tmp_path / split / name / f"person{person}_1.mp4"
                write_counting_video(video, 8 + 10 * number + person, gop=4)
    document = text_of("docs/data-sets.md")
    begin, end = (document[: document.index(title)].count("\n") for title in ("### No split yet", "## Wrong input"))
    commands = [each for each in commands_of("docs/data-sets.md") if begin < each.line < end]
    assert [each.program for each in commands] == ["vsn-train", TOOLS, "vsn-train", "vsn-train", "vsn-train"]
    for number, command in enumerate(commands):
        line = shlex.join([command.program, *command.arguments]).replace("/data/", f"{tmp_path}/")
        small = [*SMALL, "data.workers=0", "schedule.epochs=1", f"hydra.run.dir=runs/{number}"]
        code, text = reader(line, *(small if command.program == "vsn-train" else []))
        assert code == 0, f"{command.place}\n{text}"
    assert "best val mean class accuracy" in (tmp_path / "runs" / "3" / "log.txt").read_text()
    assert (tmp_path / "runs" / "0" / "val.csv").read_text().count("\n") == 3


def test_a_checkpoint_does_not_choose_what_is_imported(tmp_path, monkeypatch, capsys):
    """Only the command line does. The module that this file names lies where it would be found, and is not run."""
    (tmp_path / "evil.py").write_text("open('RAN', 'w')\ndef insert(network, num_frames): pass\n")
    config = {
        "backbone": {"operator": "evil.insert", "arch": "resnet18", "num_frames": 4, "options": {}},
        "dataset": {"name": "custom", "root": "data"},
        "protocol": {"clips": 1, "placement": "uniform", "crops": 1, "short_side": 40, "crop_size": 32},
        "data": {"short_side": 40, "crop_size": 32},
        "runtime": {},
    }
    own = {"name": "x", "root": "data", "loader": "evil.load", "options": {}}
    monkeypatch.chdir(tmp_path)
    for stored, command, key in (
        (config, cli.evaluate, "backbone.operator=evil.insert"),
        (config, cli.predict, "backbone.operator=evil.insert"),
        (
            config | {"backbone": {"operator": "tsn", "arch": "resnet18", "num_frames": 4}, "dataset": own},
            cli.evaluate,
            "dataset.loader=evil.load",
        ),
    ):
        save_checkpoint(Path("evil.pt"), checkpoint_with(config=stored, class_names=["a"]))
        monkeypatch.setattr(
            sys, "argv", ["vsn", "checkpoint=evil.pt", "video=clip.mp4"][: 3 if command is cli.predict else 2]
        )
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert "loading a checkpoint runs no code" in message
        assert f"add {key}\n" in message
    # As the start of a training: its tensors are taken by their names.
    network = create_model("tsn", "resnet18", 4, 1)
    content = {"model": network.state_dict(), "config": config, "class_names": ["a"], "mixing": {"layer1.0": "evil"}}
    with pytest.raises(InputError, match="trained with evil in 1 block"):
        load_weights(network, saved(Path("start.pt"), content))
    load_weights(network, saved(Path("start.pt"), content), allow_other_operator=True)
    assert not Path("RAN").exists()
    assert "evil" not in sys.modules


def saved(path: Path, content: dict[str, object]) -> Path:
    torch.save(content, path)
    return path


def test_weights_of_a_2d_network_start_an_operator_of_ones_own(tmp_path):
    files_of("docs/add-an-operator.md", tmp_path)
    insert = module_from(tmp_path / "time_conv.py").insert
    plain = create_model("tsn", "resnet18", 4, 3).eval()
    model = create_model(insert, "resnet18", 4, 3, weights=saved(tmp_path / "plain.pt", plain.state_dict())).eval()
    video = torch.rand(1, 4, 3, 32, 32)
    torch.testing.assert_close(model(video), plain(video))  # it starts as its middle tap
    assert placement(model)[0] == ("layer1.0", "TimeConv(taps=3) at conv1")
    # Its own checkpoints say how they mix frames; another setting is refused.
    content = {
        "model": model.state_dict(), "mixing": mixing_of(model),
        "config": {"backbone": {"operator": "time_conv.insert", "arch": "resnet18", "num_frames": 4}},
    }  # fmt: skip
    path = saved(tmp_path / "own.pt", content)
    assert load_weights(create_model(insert, "resnet18", 4, 3), path).skipped == {}
    with pytest.raises(
        InputError, match=r"trained with TimeConv\(taps=3\) at conv1 in 8 blocks; this model has TimeConv"
    ):
        load_weights(create_model(insert, "resnet18", 4, 3, taps=5), path)
    with pytest.raises(InputError, match="cannot be called with network, num_frames, tap=5: got an unexpected keyword"):
        create_model(insert, "resnet18", 4, 3, tap=5)


def module_from(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backbone.operator=time_conv"], "backbone.operator=time_conv: expected module.function"),
        (["backbone.operator=nowhere.insert"], "found no module nowhere; expected nowhere.py in "),
        (["backbone.operator=time_conv.inserted"], "time_conv.py has no inserted; correct the name"),
        (["backbone.options.taps=4"], "backbone.options.taps=4: expected an odd number"),
        (["backbone.options.tapps=3"], "unknown key 'backbone.options.tapps', did you mean backbone.options.taps?"),
        (["backbone.arch=mobilenet_v2"], "features.1: time_conv is written for ResNets"),
    ],
)
def test_mistakes_with_an_operator_of_ones_own(arguments, message, tmp_path, monkeypatch, capsys):
    files_of("docs/add-an-operator.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "time_conv", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    small = [
        "dataset.root=data",
        "dataset.train_videos=12",
        "dataset.val_videos=12",
        "dataset.num_frames=4",
        "data.workers=0",
    ]
    monkeypatch.setattr(
        sys, "argv", ["vsn-train", "--config-dir", "my_configs", "backbone=time_conv", *small, *arguments]
    )
    with pytest.raises(SystemExit) as ended:
        cli.train()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted({c.program for c in ALL_COMMANDS if c.program not in (*COMMANDS, TOOLS)}))
def test_every_script_in_the_documents_is_run_by_a_test(script):
    name = script.removesuffix(".py").replace("/", r"[./]")
    folder, _, stem = script.removesuffix(".py").rpartition("/")
    package = folder.replace("/", r"\.")
    tests = [path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py") if path != Path(__file__)]
    assert any(re.search(rf"{name}\b|{package} import {stem}\b|{stem}\.py", text) for text in tests)


@pytest.mark.slow
@pytest.mark.parametrize("document", [each for each in DOCUMENTS if not each.startswith("docs/add-a")])
def test_commands_that_need_nothing_run(document, tmp_path, ucf101_run):
    """In order, in one folder; smaller, and with a checkpoint and a video that are there."""
    write_counting_video(tmp_path / "clip.mp4", 240)  # 8 s: some commands look at seconds 2.5 to 7
    online = tmp_path / "online"
    tiny = [*SMALL, "dataset.train_videos=24", "dataset.val_videos=12", "schedule.epochs=1"]
    for command in commands_of(document):
        if command.needs or command.program not in COMMANDS or document == "CHANGELOG.md":
            continue
        there = {"checkpoint": f"checkpoint={ucf101_run}/checkpoints/best.pt", "video": "video=clip.mp4"}
        positional = iter(cli.POSITIONAL[command.program.removeprefix("vsn-")])
        keys = [
            each if each[0] == "-" or "=" in each or before == "--cfg" else next(positional, "")
            for before, each in pairwise(("", *command.arguments))
        ]
        arguments = [there.get(key.partition("=")[0], key) for key in keys]
        if {"split=test", "--help", "--shell-completion"} & set(arguments):
            continue
        if "live=true" in arguments:
            if not online.exists():
                words = ["backbone=tsm_online", f"hydra.run.dir={online}", *tiny]
                assert run_line("vsn-train", tmp_path, *words).returncode == 0, command.place
            arguments = [f"checkpoint={online}" if each == there["checkpoint"] else each for each in arguments]
        more = tiny if command.program == "vsn-train" and "--cfg" not in arguments else []
        if "resume=true" in arguments:  # of a run that has to be there
            before = [each for each in arguments if each != "resume=true"]
            assert run_line(shlex.join([command.program, *before]), tmp_path, *more).returncode == 0, command.place
        done = run_line(shlex.join([command.program, *arguments]), tmp_path, *more)
        assert done.returncode == 0, f"{command.place}\n{done.stderr}"
