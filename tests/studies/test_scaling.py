"""The arithmetic of the scaling guide, against numbers worked out by hand, and the guide against its command."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from scripts.studies.needs import ReadingRates, VideoSet, clips_per_gpu, need

TOP = Path(__file__).resolve().parents[2]
SCRIPT = TOP / "scripts" / "studies" / "scaling.py"
TINY = VideoSet("tiny", 1000, 200, megabytes=2.0, frames=100, epochs=10, views=4)
RATES = ReadingRates(clips=5, copied_clips=50, test_videos=2, copies_made=0.5, growth=2)


def test_a_training_worked_out_by_hand():
    found = need(TINY, RATES, gpu_clips_s=20, gpus=4, share=0.5, num_frames=8)  # 40 clips/s together
    assert found.clips_millions == 0.01
    assert found.gpu_days * 86400 == pytest.approx(10_000 / 20)
    assert found.days * 86400 == pytest.approx(10_000 / 40)
    assert (found.cores_files, found.cores_copies) == (8, 1)
    assert found.reading_files_mb_s == 80
    assert found.reading_copies_mb_s == pytest.approx(40 * 8 * 2 * 2 / 100)
    assert (found.disk_files_gb, found.disk_copies_gb) == (2.4, 4.8)
    assert found.copying_core_days * 86400 == pytest.approx(1200 / 0.5)
    assert found.test_gpu_hours * 3600 == pytest.approx(200 * 4 / 60)
    assert found.test_core_hours * 3600 == 100
    assert found.manifest_gb == pytest.approx(88e-6)


def test_one_gpu_loses_nothing_and_a_thousand_times_the_videos_takes_a_thousand_times_as_long():
    alone = need(TINY, RATES, 20, gpus=1, share=0.5, num_frames=8)
    assert alone.days == alone.gpu_days
    assert TINY.times(1000).name == "tinyx1000"
    large = need(TINY.times(1000), RATES, 20, gpus=1, share=0.5, num_frames=8)
    assert large.days == pytest.approx(1000 * alone.days)
    assert large.disk_copies_gb == pytest.approx(4800)
    assert large.cores_files == alone.cores_files  # these follow from the GPUs, not from the videos


def test_clips_a_second_from_multiplications():
    # 32.7 GMACs forward, twice that backward, two operations each: 196.2 GFLOP a clip.
    assert clips_per_gpu(32.7e9, tflops=39.24) == pytest.approx(200)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return capsys.readouterr().out


def column(out, number=1):
    """What a table says below its heads: title -> cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    return {row[0]: row[number] for row in rows}


def test_the_guide_holds_what_the_command_prints(monkeypatch, capsys):
    assert run(monkeypatch, capsys) in (TOP / "docs" / "scaling.md").read_text()


def test_rates_from_the_benchmarks_files(monkeypatch, capsys, tmp_path):
    work = {"arch": "resnet18", "num_frames": 4, "batch": 2}
    steps = [("tsm", work, [9, 0.5, 0.5]), ("tsm", work | {"num_frames": 8}, [0.1] * 3), ("tsn", work, [0.1] * 3),
             ("tsm:reference", work, [0.1] * 3)]  # fmt: skip
    rows = [{"mode": "train", "model": model, "work": each, "seconds": seconds} for model, each, seconds in steps]
    (tmp_path / "model.json").write_text(json.dumps({"results": rows}))
    reads = [("train", "baseline", [9.0]), ("train", "ours", [0.4]), ("train", "ours, copies", [0.05]),
             ("tencrop_10clip", "ours", [1.0]), ("center_1clip", "ours", [0.1])]  # fmt: skip
    rows = [
        {"mode": mode, "pipeline": name, "files": 2, "seconds": seconds, "growth": 3.0, "copying_seconds": 8.0}
        for mode, name, seconds in reads
    ]
    rows += [{"mode": "train", "workers": 2, "clips_per_s": {}}, {"mode": "memory", "megabytes": {}}]
    (tmp_path / "loader.json").write_text(json.dumps({"results": rows}))
    files = ["--model-json", tmp_path / "model.json", "--loader-json", tmp_path / "loader.json"]
    network = ["--arch", "resnet18", "--num-frames", 4, "--gpus", 10, "--share", 0.5, "--epochs", 2]
    own = ["--videos", 864_000, "--megabytes", 1.0, "--frames", 12]
    found = column(run(monkeypatch, capsys, *own, *files, *network))
    assert found["training clips/s of a GPU"] == "4"  # 2 clips in the median of half a second
    assert found["days on these GPUs"] == "1"  # 1,728,000 clips at 20 a second
    assert found["loader cores, files as they are"] == "4"  # 5 clips/s a core
    assert found["loader cores, fast-seek copies"] == "1"  # 40
    assert found["read from disk, MB/s, files (at most)"] == "20"
    assert found["read from disk, MB/s, copies"] == "20"  # 20 clips x 4 frames x 3 MB / 12 frames
    assert found["making the copies, core days"] == "43.2"  # 864,000 and 69,762 videos at a quarter a second
    assert found["one test, core hours of reading (files)"] == "9.69"  # 69,762 at 2 a second


@pytest.fixture
def gpu_json(tmp_path):
    """Of scripts/gpu_report.py: TSM took half a second for 32 clips; the other rows are not the question."""
    work = {"arch": "resnet50", "num_frames": 8, "batch": 32, "device": "cuda"}
    setting = {"precision": "bf16", "channels_last": True, "compiled": False}
    row = {"mode": "train", "model": "tsm", "work": work, "setting": setting, "seconds": [0.5, 0.5, 9]}
    others = [
        {"work": work | {"device": "cpu"}}, {"setting": setting | {"compiled": True}}, {"model": "images"},
        {"setting": setting | {"precision": "fp16"}}, {"model": "tsm:reference"}, {"mode": "forward"},
    ]  # fmt: skip
    rows = [*(row | other | {"seconds": [0.1]} for other in others), row, {"mode": "section", "name": "operators"}]
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"facts": {}, "results": rows}))
    return path


def test_a_gpu_that_was_measured_takes_the_place_of_the_assumption(monkeypatch, capsys, gpu_json):
    out = run(monkeypatch, capsys, "kinetics400", "--gpu-json", gpu_json)
    assert f"- a GPU: 64 training clips/s, as measured by scripts/gpu_report.py ({gpu_json})" in out
    assert column(out)["training clips/s of a GPU"] == "64"
    assert "V100" not in out
    # Twice the frames are twice the multiplications.
    out = run(monkeypatch, capsys, "kinetics400", "--gpu-json", gpu_json, "--num-frames", 16)
    assert "- a GPU: 32 training clips/s, computed from tsm resnet50 8 frames" in out
    out = run(monkeypatch, capsys, "kinetics400", "--gpu-json", gpu_json, "--tflops", 40)
    assert "204 training clips/s, assumed" in out


def test_the_assumption_stands_beside_published_rates(monkeypatch, capsys):
    out = run(monkeypatch, capsys, "kinetics400", "--tflops", 40)
    rates = {title.split(":")[0]: cells for title, cells in ((k, column(out)[k]) for k in column(out))}
    assert rates["TSM, 8 frames, mmaction2"] == "27"  # 64 clips in 0.30 s on 8 GPUs
    assert rates["TSM, 8 frames, the TSM repository"] == "21"
    assert rates["ResNet-50 on images, AMP"] == "309"  # 2,470 images/s, 8 to a clip


def test_the_table_is_written_between_its_marks(monkeypatch, capsys, tmp_path):
    document = tmp_path / "guide.md"
    document.write_text(
        "before\n<!-- scripts/studies/scaling.py begins -->\nold\n<!-- scripts/studies/scaling.py ends -->\nafter\n"
    )
    out = run(monkeypatch, capsys, "kinetics400", "--gpu-clips-per-s", 100, "--document", document)
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert out in document.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kinetics"], "kinetics400"),
        (["kinetics400x0"], "kinetics400"),
        (["--gpus", "0"], "--gpus 0: expected a number above 0"),
        (["--share", "1.2"], "--share 1.2"),
        (["--videos", "5"], "--megabytes"),
        (["--model-json", "nowhere.json"], "vsn-tools bench model"),
        (["--gpu-json", "nowhere.json"], "scripts/gpu_report.py"),
        (["--gpu-clips-per-s", "9", "--document", str(TOP / "README.md")], "scaling.py begins"),
        (["--gpu-clips-per-s", "9", "--document", "nowhere.md"], "nowhere.md"),
    ],
)
def test_wrong_input_is_one_message(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 2
    assert re.match(rf"scaling: .*{re.escape(message)}", capsys.readouterr().err)
