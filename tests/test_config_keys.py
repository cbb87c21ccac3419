"""Every key is described, with its unit; --help and docs/reference/config.md say what the schema says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from vsn_train import cli, config_keys

ROOT = Path(__file__).resolve().parents[1]
KINDS = {kind for _, kinds in config_keys.GROUPS.values() for kind in kinds} | set(config_keys.COMMANDS.values())
UNITS = {
    "videos", "frames", "pixels", "clips", "crops", "views", "classes", "batches", "epochs", "optimizer steps",
    "seconds", "minutes", "processes", "threads", "restarts", "operations", "learning rate", "gradient norm",
    "share 0 to 1", "factor", "divisor", "number",
}  # fmt: skip
NUMBER = re.compile(r"\b(int|float)\b")


def keys() -> list[tuple[str, config_keys.Key]]:
    groups = set(config_keys.GROUPS)
    return [(kind.__name__, key) for kind in KINDS for key in config_keys.keys_of(kind) if key.name not in groups]


def test_every_key_has_a_description_and_every_number_a_unit():
    assert len(keys()) > 120
    wrong = [f"{kind}.{key.name}: no description" for kind, key in keys() if len(key.description) < 8]
    wrong += [f"{kind}.{key.name}: unit {key.unit!r}; expected one of {sorted(UNITS)}" for kind, key in keys()
              if bool(NUMBER.search(key.type)) != (key.unit in UNITS)]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_the_reference_is_up_to_date():
    """After a change of the schema: make reference."""
    written = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert written == config_keys.markdown_reference()
    for _, key in keys():
        assert f"| `{key.name}` | " in written


def asked(monkeypatch, capsys, command: str, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [f"vsn-{command}", *words])
    try:
        {"train": cli.train, "eval": cli.evaluate, "predict": cli.predict}[command]()
    except SystemExit as ended:
        if ended.code:
            pytest.fail(capsys.readouterr().err)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_help_names_every_group_and_describes_each(command, monkeypatch, capsys):
    overview = asked(monkeypatch, capsys, command, "--help")
    assert max(map(len, overview.splitlines())) <= 80
    assert "_schema" not in overview
    for key in config_keys.top_keys(command):
        assert f"\n  {key.name}=" in overview
    for group in config_keys.groups_of(command):
        assert re.search(rf"^  {group} +\w", overview, re.M)
    for group in ("backbone", "protocol", "runtime"):
        text = asked(monkeypatch, capsys, command, "--help", group)
        assert max(map(len, text.splitlines())) <= 80
        assert "_schema" not in text
        described = set(re.findall(rf"^  {group}\.(\w+)=", text, re.M))
        assert {key.name for key in config_keys.keys_of(config_keys.GROUPS[group][1][0])} <= described


def test_help_of_a_group_shows_the_values_of_the_command_line(monkeypatch, capsys):
    text = asked(monkeypatch, capsys, "train", "dataset=ucf101", "data.workers=7", "--help", "data")
    assert "  data.workers=7 [processes]\n" in text
    assert "  data.sampling=dense\n" in text  # of the data set's experiment file
    assert "  backbone.p=0.25 [share 0 to 1]\n" in asked(monkeypatch, capsys, "train", "backbone=sth", "-h", "backbone")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("vsn-train back", ["backbone.", "backbone="]),
        (
            "vsn-train backbone=",
            [f"backbone={name}" for name in ["sth", "tsm", "tsm_online", "tsn", "vsn_compact", "vsn_headtail"]],
        ),
        ("vsn-train exp", ["experiment="]),
        ("vsn-train experiment=ucf101/", ["experiment=ucf101/tsm_r50_16f", "experiment=ucf101/tsm_r50_8f"]),
        ("vsn-eval dataset=m", ["dataset=motion", "dataset=motion_order", "dataset=motion_static"]),
        ("vsn-predict runtime.d", ["runtime.device=", "runtime.devices="]),
    ],
)
def test_tab_completion_offers_what_can_be_typed(line, found, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    command = line.split()[0].removeprefix("vsn-")
    assert asked(monkeypatch, capsys, command, "--shell-completion", "query=bash").split() == found


def test_tab_completion_hides_internal_names(monkeypatch, capsys):
    for command in ("train", "eval", "predict"):
        monkeypatch.setenv("COMP_LINE", f"vsn-{command} ")
        words = asked(monkeypatch, capsys, command, "-sc", "query=bash").split()
        assert {"data.", "runtime.", "protocol="} <= set(words)
        assert not [word for word in words if "schema" in word or "from_checkpoint" in word or "hydra" in word]


def test_a_group_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vsn-train", "--help", "modle"])
    with pytest.raises(SystemExit, match="2"):
        cli.train()
    assert "--help modle: no such group; expected one of dataset, backbone" in capsys.readouterr().err
