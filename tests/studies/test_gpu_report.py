"""scripts/gpu_report.py: every section leaves its part, a cut-off run what it had; Markdown says what JSON says."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import gpu_report
from scripts.gpu import networks
from scripts.gpu.document import LABELS, goals, write_report
from scripts.gpu.plan import Budget, Clock, CutOff, Section, bounded
from scripts.gpu.videos import steady_state


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Runs the script in this process; returns its Markdown, and the rows of its JSON."""
    # The compiler itself takes half a minute a network.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def call(*words: str, code: int = 0) -> tuple[str, list[dict]]:
        output = tmp_path / "out" / "gpu"
        small = ["--small", "--device", "cpu", "--threads", "1", "--output", str(output)]
        assert gpu_report.main([*small, *words]) == code
        return output.with_suffix(".md").read_text(), json.loads(output.with_suffix(".json").read_text())["results"]

    return call


def tables(text):
    """(heading of the part, cells) of every line of a table."""
    part, found = "", []
    for line in text.splitlines():
        part = line[3:] if line.startswith("## ") else part
        if line.startswith("|") and not line.startswith("|:"):
            found.append((part, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


def test_every_section_leaves_its_part_and_the_document_says_what_json_says(report, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "GRACE", 30)  # a machine that does other things too takes longer, and is not cut
    text, rows = report("--minutes", "0.5")
    states = {row["name"]: row["state"] for row in rows if row["mode"] == "section"}
    assert list(states) == list(gpu_report.WEIGHTS)
    assert "failed" not in states.values()
    assert (tmp_path / "out" / "gpu.png").read_bytes().startswith(b"\x89PNG")
    cells = tables(text)
    parts = {part for part, _ in cells}
    assert {"Goals", "Compared with the papers", "What was measured, and what was cut"} <= parts
    assert "a trial run on a CPU" in text.splitlines()[0]

    verdicts = {row["goal"]: row for row in rows if row["mode"] == "goal"}
    said = {line[0]: line for part, line in cells if part == "Goals"}
    assert len(verdicts) == 7
    assert set(verdicts) == set(said) - {"goal"}
    for goal, row in verdicts.items():
        assert said[goal][2] == row["measured"]
        assert said[goal][-1] == row["verdict"]

    titles = {title: name for name, title in networks.TITLES.items()}
    measured = [(line, titles[line[0]]) for part, line in cells if part == LABELS["operators"] and line[0] in titles]
    assert len(measured) > 1
    for line, model in measured:
        (row,) = (each for each in rows if each.get("section") == "operators" and each["model"] == model)
        assert float(line[3].split()[0]) == pytest.approx(2 / np.median(row["seconds"]), abs=0.06)
    for row in rows:
        if row["mode"] == "section":
            (line,) = (cells for _, cells in cells if cells[0] == LABELS.get(row["name"], row["name"]))
            assert line[1] == row["state"]
            assert all(note in text for note in row["notes"])


def test_a_cut_off_run_leaves_what_the_sections_before_have_found(report, monkeypatch):
    def killed(section, sizes):
        raise KeyboardInterrupt

    monkeypatch.setattr(networks, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        report("--only", "operators", "forward", "--minutes", "0.4")
    monkeypatch.setattr(gpu_report, "report", lambda arguments: 0)
    text, rows = report()
    assert [row["name"] for row in rows if row["mode"] == "section"] == ["operators"]
    assert any(row["mode"] == "train" for row in rows)
    assert LABELS["operators"] in text


def test_a_section_that_takes_too_long_is_cut_and_one_that_fails_does_not_stop_the_rest(report, monkeypatch):
    def endless(section, sizes):
        section.rows.append({"section": "forward", "mode": "other", "seconds": [1.0]})
        time.sleep(60)

    def broken(section, sizes):
        raise ValueError("no such thing")

    monkeypatch.setattr(networks, "forward", endless)
    monkeypatch.setattr(networks, "precision", broken)
    monkeypatch.setattr(networks, "switches", lambda section, sizes: None)
    monkeypatch.setattr(gpu_report, "GRACE", 0.1)
    text, rows = report("--only", "forward", "precision", "switches", "--minutes", "0.01", code=1)
    states = {row["name"]: row for row in rows if row["mode"] == "section"}
    assert {name: row["state"] for name, row in states.items()} == {
        "forward": "cut", "precision": "failed", "switches": "done",
    }  # fmt: skip
    assert states["precision"]["notes"] == ["failed: ValueError: no such thing"]
    assert "no such thing" in text
    assert [row for row in rows if row["mode"] == "other"]  # what it had found stays


def training(model, seconds, frames=8, batch=4):
    return {"section": "operators", "mode": "train", "model": model, "seconds": seconds, "peak_bytes": None,
            "work": {"arch": "resnet50", "batch": batch, "num_frames": frames, "size": 224},
            "setting": {"precision": "bf16", "channels_last": True, "compiled": False}}  # fmt: skip


def test_verdicts_worked_out_by_hand(tmp_path):
    rows = [
        training(networks.IMAGES, [1.0, 1.0], frames=1, batch=32), training("tsn", [1.05, 1.04]),
        training("tsm", [1.07, 1.07, 9.9]), training("vsn_compact", [1.2, 1.2]),
        training("sth:integration=attention", [1.06, 1.07]),
        {"mode": "loader", "videos": "copies", "prefetch": True, "data_wait": 0.06},
    ]  # fmt: skip
    found = {row["goal"].split(":")[0]: row for row in goals(rows)}
    assert found["TSN"]["median"] == pytest.approx((1 / 1.05 + 1 / 1.04) / 2)  # of an eighth of the images
    assert found["TSM"]["median"] == pytest.approx((1.05 + 1.04) / 2 / 1.07)  # the third round is not TSN's
    assert {name: row["verdict"] for name, row in found.items()} == {
        "TSM": "reached", "VSN compact": "missed", "VSN headtail": "not measured", "STH attention": "reached",
        "STH sum": "not measured", "TSN": "reached", "waiting for data, training from copies": "missed",
    }  # fmt: skip


def test_the_picture_and_the_papers_table_of_a_whole_run(tmp_path):
    names = (networks.IMAGES, *networks.TITLES)
    rows = [training(name, [1.0, 1.1], *((1, 32) if name == networks.IMAGES else ())) for name in names]
    for batch in (1, 4):
        rows += [training(name, [0.2, 0.3], batch=batch) | {"section": "forward", "mode": "forward"}
                 for name in networks.TITLES]  # fmt: skip
    write_report(tmp_path / "gpu", {"gpu": "one"}, rows)
    lines = {tuple(cells[:2]): cells for _, cells in tables((tmp_path / "gpu.md").read_text())}
    line = lines["VSN compact, resnet50, 8 frames", "VSN, table 6"]
    assert line[2:] == ["16.5", "250.00", "79.5", "16.7", "1.027", "1.000 (1.000-1.000)", "TSM"]
    assert "trial" not in (tmp_path / "gpu.md").read_text()


def test_waiting_is_counted_without_the_steps_that_were_read_ahead():
    # Ten steps of 4 clips: the first took 5 s, of which 4 were waited for; the others 1 s each, waiting half of it.
    seconds, waited = [5.0 + n for n in range(10)], [4 + 0.5 * n for n in range(10)]
    values = [
        {"step": n + 1, "clips_per_s": 4 * (n + 1) / seconds[n], "data_wait": waited[n] / seconds[n]} for n in range(10)
    ]
    found = steady_state(values, skipped=2, batch=4)
    assert (found["steps"], found["clips_per_s"], found["data_wait"]) == (8, pytest.approx(4), pytest.approx(0.5))
    assert steady_state(values[:4], skipped=2, batch=4) is None


def test_what_a_section_leaves_over_goes_to_the_later_ones():
    budget = Budget(100, {"a": 1, "b": 1, "c": 2}, time.monotonic())
    assert budget.share("a") == pytest.approx(25, abs=0.1)
    budget.started -= 10  # of its 25 seconds "a" took 10
    assert budget.share("b") == pytest.approx(30, abs=0.1)
    assert budget.share("c") == pytest.approx(90, abs=0.1)


def test_a_bound_within_a_bound():
    def nested():
        with pytest.raises(CutOff), bounded(0.05):
            time.sleep(5)
        time.sleep(5)

    began = time.monotonic()
    with pytest.raises(CutOff), bounded(0.3):
        nested()
    assert 0.3 <= time.monotonic() - began < 2


def test_each_round_begins_with_another_action_and_a_late_one_is_left_out():
    order: list[str] = []

    def action(name):
        return {"mode": "x"}, lambda: lambda: order.append(name)

    section = Section("s", Clock(time.monotonic() + 60), "cpu", [])
    section.time({name: action(name) for name in "abc"}, most=3)
    assert "".join(order[-9:]) == "abcbcacab"
    assert [len(row["seconds"]) for row in section.rows] == [3, 3, 3]
    late = Section("s", Clock(time.monotonic()), "cpu", [])
    late.time({name: action(name) for name in "ab"}, most=3)
    assert [len(row["seconds"]) for row in late.rows] == [1]
    assert late.notes[0] == "not measured, time was up: b"


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--batch", "1"], ["--clips", "/nowhere/at/all"]])
def test_wrong_input_is_one_message(words, tmp_path, capsys):
    output = tmp_path / "gpu"
    assert gpu_report.main(["--device", "cpu", "--output", str(output), *words]) == 2
    assert re.match(rf"gpu_report: .*{words[0]}", capsys.readouterr().err)
    assert not list(Path(tmp_path).iterdir())
