"""Any path as it is typed: what the shell hands over is what the program opens, whatever it means to Hydra."""

import shlex
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore

from vsn_train.typed_paths import hydra_words, paste, quoted

NAMES = [
    "clip.mp4", "跑步.mp4", "clip (1).mp4", "a,b.mp4", "x=y.mp4", "it's.mp4", "50% [final].mp4", "v{1}.mp4", "100021",
    "0", "0012", "1e5", "true", "end ", " start", "a\\b", "back\\", "quote'\\", "\\'", '"double".mp4', "'single'.mp4",
    "[a].mp4", "[a]", "a: b", "$x$.mp4", "${x}.mp4", "a\\${x}.mp4", "#1.mp4", "@me", "a*b?.mp4", "+1.mp4", "tab\there",
    "choice(a)", "é", "a|b;c&d", "-dash.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def compose():
    """key -> its value after Hydra has composed these words."""
    ConfigStore.instance().store(name="typed_paths_test", node={"video": None, "dataset": {"root": None}, "n": 1})
    with hydra.initialize(None, version_base="1.3"):
        yield lambda words: hydra.compose("typed_paths_test", list(words))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exists", [True, False])
def test_a_path_arrives_as_it_was_typed(tmp_path, monkeypatch, compose, name, exists):
    monkeypatch.chdir(tmp_path)
    if exists:
        (tmp_path / name).touch()
    elif name in ("'single'.mp4", "[a]", "${x}.mp4", "a\\${x}.mp4"):
        pytest.skip("what does not exist may be Hydra's own syntax")
    words = hydra_words([f"video={name}", f"dataset.root={tmp_path}/{name}"], {"video", "dataset.root"}, {"video"})
    config = compose(words)
    assert config.video == name
    assert config.dataset.root == f"{tmp_path}/{name}"


def test_lists_and_sweeps_stay_possible(tmp_path, monkeypatch, compose):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.mp4").touch()
    listed = hydra_words(["video=[a b.mp4, 'c,d.mp4',0]", "n=2"], {"video"}, {"video"})
    assert compose(listed).video == ["a b.mp4", "c,d.mp4", "0"]
    assert compose(listed).n == 2
    assert compose(hydra_words(["video=null"], {"video"}, {"video"})).video is None
    paths = {"checkpoint"}
    assert hydra_words(["-m", "checkpoint=a.pt,b c.pt"], paths) == ["-m", "checkpoint='a.pt','b c.pt'"]
    assert hydra_words(["-m", "checkpoint=a,b.mp4"], paths) == ["-m", "checkpoint='a,b.mp4'"]  # it exists
    assert hydra_words(["-m", "checkpoint=glob(*)"], paths) == ["-m", "checkpoint=glob(*)"]


def test_words_without_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y.mp4").touch()
    keys = ("checkpoint", "video")
    words = ["--config-dir", "mine", "best.pt", "a.mp4", "x=y.mp4", "top_k=3"]
    assert hydra_words(words, {"checkpoint", "video"}, {"video"}, keys) == [
        "--config-dir", "mine", "top_k=3", "checkpoint='best.pt'", "video=['a.mp4','x=y.mp4']",
    ]  # fmt: skip
    assert hydra_words(["best.pt", "--cfg", "job"], {"checkpoint"}, (), ("checkpoint",)) == [
        "--cfg", "job", "checkpoint='best.pt'",
    ]  # fmt: skip


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert hydra_words(["video=~/a.mp4"], {"video"}) == ["video='/home/me/a.mp4'"]
    assert hydra_words(["video=~a.mp4"], {"video"}) == ["video='~a.mp4'"]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_can_be_pasted(name):
    line = paste("vsn-eval", checkpoint=Path(name), hydra__run__dir=name)
    assert shlex.split(line) == ["vsn-eval", f"checkpoint={Path(name)}", f"hydra.run.dir={name}"]
    assert quoted(name)[0] == quoted(name)[-1] == "'"
