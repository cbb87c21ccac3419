"""vsn-predict live=true: files, pipes and addresses frame by frame, each bounded, and stopped by Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.colours import COLOURS, save_colour_network, write_colours
from tests.test_documents import blocks_of, commands_of
from tests.warm import Command
from vsn_train import cli, load_model
from vsn_train.data.live import live_frames
from vsn_train.data.video import open_video
from vsn_train.errors import VideoError

PARTS = [("red", 20), ("green", 16), ("blue", 12)]  # frames at 12 a second


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_colour_network(tmp_path_factory.mktemp("network") / "best.pt", "tsm_online")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("clip") / "clip.ts", PARTS)


def predict(monkeypatch, *words):
    """vsn-predict in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["vsn-predict", "live=true", *map(str, words)])
    try:
        cli.predict()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def served(data, connections=1):
    """The port of a server on this machine that sends these bytes to whoever connects, and closes."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        for _ in range(connections):
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


@pytest.fixture(params=["file", "pipe", "http", "tcp"])
def source(request, clip, tmp_path):
    if request.param == "file":
        yield str(clip)
    elif request.param == "pipe":
        os.mkfifo(tmp_path / "pipe, 1")
        threading.Thread(target=lambda: (tmp_path / "pipe, 1").write_bytes(clip.read_bytes()), daemon=True).start()
        yield str(tmp_path / "pipe, 1")
    elif request.param == "tcp":
        yield f"tcp://127.0.0.1:{served(clip.read_bytes())}"
    else:

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(clip.parent)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{clip.name}?a=1,2"
        server.shutdown()
        server.server_close()


def test_every_kind_of_source_gives_the_same_frames(source, clip):
    found = list(live_frames(source, timeout=20))
    with open_video(clip) as video:
        expected, times = video.read(range(video.num_frames)).permute(0, 2, 3, 1).numpy(), video.times
    assert [seconds for seconds, _ in found] == pytest.approx(times.tolist())
    assert np.array_equal(np.stack([image for _, image in found]), expected)


def test_spaced_frames_and_a_part(clip):
    assert [seconds for seconds, _ in live_frames(str(clip), step=0.25)] == pytest.approx(np.arange(16) / 4)
    # The first frame at or behind 1, 1.1, 1.2, 1.3 and 1.4 s.
    assert [seconds for seconds, _ in live_frames(str(clip), step=0.1, start=1, end=1.5)] == pytest.approx(
        [1, 1 + 2 / 12, 1 + 3 / 12, 1 + 4 / 12, 1 + 5 / 12]
    )


def test_the_scores_of_a_file_are_those_of_a_stream(network, clip, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert predict(monkeypatch, f"checkpoint={network}", f"video={clip}", f"hydra.run.dir={out}") == 0
    said = capsys.readouterr().out.splitlines()
    lines = [line for line in said if line.endswith("frames/s") and line.startswith(" ")]
    assert len(lines) == 48
    assert lines[0].split()[:3] == ["0.00", "s", "red"]
    assert any(line.startswith(f"{clip}: 48 frames, ") and line.endswith("ended at its end") for line in said)
    trained = load_model(network, device="cpu")
    stream = trained.stream()
    with (out / "timeline.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    for row, (seconds, image) in zip(rows, live_frames(str(clip)), strict=True):
        shares = trained.probabilities(stream.push(image))
        assert float(row["end"]) == pytest.approx(seconds, abs=1e-3)
        assert [float(row[name]) for name in COLOURS] == pytest.approx(shares.tolist(), abs=1e-5)
    assert [float(row["start"]) for row in rows[:6]] == pytest.approx([0, 0, 0, 0, 1 / 12, 2 / 12], abs=1e-3)
    # After four frames the score of the clip; the last frames of a long stream know what came before them.
    with open_video(clip) as video:
        frames = video.read(range(4)).permute(0, 2, 3, 1)
    expected = trained.probabilities(trained.scores(frames))
    assert [float(rows[3][name]) for name in COLOURS] == pytest.approx(expected.tolist(), abs=1e-5)
    facts = json.loads((out / "prediction.json").read_text())
    (found,) = facts["predictions"]
    assert facts["live"] is True
    assert (found["frames"], found["ended"]) == (48, "at its end")
    assert [each["name"] for each in found["segments"]] == ["red", "green", "blue"]
    assert [each["start"] for each in found["segments"]] == pytest.approx([0, 20 / 12, 3], abs=0.26)
    assert found["segments"][0]["end"] == found["segments"][1]["start"]


def test_a_window_in_seconds_takes_fewer_frames(network, clip, tmp_path, monkeypatch, capsys):
    given = [f"checkpoint={network}", f"video={clip}", f"hydra.run.dir={tmp_path}/out", "window=2"]
    assert predict(monkeypatch, *given) == 0  # 4 frames in 2 s
    found = json.loads((tmp_path / "out" / "prediction.json").read_text())["predictions"][0]
    assert found["frames"] == 8
    capsys.readouterr()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["video=none.mp4"], "cannot read none.mp4: no such file, pipe or device"),
        (["video=clip.ts", "stride=1", "window=2"], "live=true scores every frame that it takes; leave stride out"),
        (["video=[a.mp4,b.mp4]"], "live=true takes one video, not 2"),
        (["video=http://127.0.0.1:9/a.ts"], "cannot read http://127.0.0.1:9/a.ts: Connection refused"),
        (["video=list.m3u8"], "cannot read list.m3u8: "),
    ],
)
def test_one_message_for_what_is_no_live_video(network, tmp_path, monkeypatch, capsys, values, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    assert predict(monkeypatch, f"checkpoint={network}", f"hydra.run.dir={tmp_path}/out", *values) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_network_that_looks_ahead_takes_no_live_video(tmp_path, clip, monkeypatch, capsys):
    network = save_colour_network(tmp_path / "tsm.pt", "tsm")
    assert predict(monkeypatch, f"checkpoint={network}", f"video={clip}", f"hydra.run.dir={tmp_path}/out") == 2
    assert "train one with backbone=tsm_online" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_document_works_as_written(network, clip, tmp_path, monkeypatch, capsys):
    """docs/use-your-model.md, with a network and a video that are there."""
    document, seen = "docs/use-your-model.md", set()
    monkeypatch.chdir(tmp_path)
    there = {"checkpoint": f"checkpoint={network}", "video": f"video={clip}"}
    for command in commands_of(document):
        keys = {each.partition("=")[0] for each in command.arguments}
        if command.program != "vsn-predict" or not command.line or not keys & {"window", "live"}:
            continue
        words = [there.get(each.partition("=")[0], each) for each in command.arguments]
        monkeypatch.setattr(sys, "argv", ["vsn-predict", *words, f"hydra.run.dir={tmp_path}/run"])
        cli.predict()
        assert "written: " in capsys.readouterr().out
        seen |= keys
    assert {"window", "stride", "live", "data.timeout"} <= seen
    trained = load_model(network, device="cpu")
    camera = [image for _, image in live_frames(str(clip))]
    names = {"trained": trained, "load_model": lambda path: trained, "camera": camera}
    code = [block.text for block in blocks_of(document) if ".windows(" in block.text or ".push(" in block.text]
    assert len(code) == 2
    for text in code:
        exec(compile(text.replace("long.mp4", str(clip)), document, "exec"), names)
    assert names["scores"].shape == (3,)
    assert capsys.readouterr().out.splitlines()[0] == "0.0 2.0 red"


def test_a_source_that_sends_nothing_ends_in_time(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"it sent no frame for 0\.3 s; raise data\.timeout to wait longer"):
        next(live_frames(str(tmp_path / "pipe"), timeout=0.3))
    assert time.monotonic() - began < 5
    (tmp_path / "pipe").write_bytes(b"")  # lets the reading thread go


def send_and_stay(clip, place):
    """Make a pipe and write the clip into it, from a thread; it stays open, as a camera's, until the event is set."""
    os.mkfifo(place)
    done = threading.Event()

    def write():
        with place.open("wb") as pipe:
            pipe.write(clip.read_bytes())
            pipe.flush()
            done.wait(100)

    threading.Thread(target=write, daemon=True).start()
    return done


def test_what_came_before_a_source_fell_silent_is_kept(network, clip, tmp_path, monkeypatch, capsys):
    silent = send_and_stay(clip, tmp_path / "pipe")
    given = [f"checkpoint={network}", f"video={tmp_path}/pipe", "data.timeout=2.0", f"hydra.run.dir={tmp_path}/out"]
    try:
        assert predict(monkeypatch, *given) == 1
    finally:
        silent.set()
    assert (
        f"it sent no frame for 2 s; raise data.timeout to wait longer; the results before that are in {tmp_path}/out"
    ) in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "prediction.json").read_text())["predictions"][0]
    assert found["frames"] >= 40
    assert found["error"].startswith("it sent no frame")


def test_ctrl_c_ends_the_installed_command_and_keeps_the_results(network, clip, tmp_path):
    done = send_and_stay(clip, tmp_path / "pipe")
    out = tmp_path / "out"
    words = ["live=true", f"checkpoint={network}", f"video={tmp_path}/pipe", f"hydra.run.dir={out}"]
    command = Command("vsn-predict", words, tmp_path)
    try:
        deadline = time.monotonic() + 150
        while command.out().count("frames/s") < 10:
            assert command.poll() is None, command.output()
            assert time.monotonic() < deadline, command.output()
            time.sleep(0.05)
        os.kill(command.pid, signal.SIGINT)
        assert command.wait(timeout=60) == 0, command.output()
    finally:
        done.set()
    assert "ended by SIGINT" in command.out()
    found = json.loads((out / "prediction.json").read_text())["predictions"][0]
    assert found["ended"] == "by SIGINT"
    assert found["frames"] == len((out / "timeline.csv").read_text().splitlines()) - 1 >= 10
