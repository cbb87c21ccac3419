import pickle
import random
from dataclasses import replace

import pytest
import torch

from tests.runs import checkpoint_with
from vsn_train.engine.checkpoint import (
    Checkpoints,
    file_hash,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from vsn_train.errors import InputError, StoppedError

CONTENT = checkpoint_with(model={"weight": torch.ones(3)}, epoch=1)


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "a" / "last.pt", CONTENT)
    assert torch.equal(load_checkpoint(tmp_path / "a" / "last.pt").model["weight"], torch.ones(3))


def test_a_crash_while_writing_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)

    def crash(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, replace(CONTENT, epoch=2))
    monkeypatch.undo()
    assert load_checkpoint(path).epoch == 1


class RunsCode:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_what_is_not_a_checkpoint(tmp_path):
    path = tmp_path / "best.pt"
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(path)
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"best.pt: .*(truncated|damaged)"):
            load_checkpoint(path)
    torch.save({"model": RunsCode()}, path)
    with pytest.raises(InputError, match="holds Python objects that would run code"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(InputError, match="holds Python objects that would run code"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_checkpoint(path)
    torch.save(torch.zeros(2), path)
    with pytest.raises(InputError, match="found a Tensor"):
        load_checkpoint(path)


def test_a_flipped_bit_or_a_zeroed_block_is_noticed_and_an_older_checkpoint_taken(tmp_path):
    older, last = tmp_path / "epoch_1.pt", tmp_path / "last.pt"
    content = replace(CONTENT, model={"weight": torch.linspace(-1, 1, 5000)}, epoch=2)
    save_checkpoint(older, CONTENT)
    save_checkpoint(last, content)
    whole = last.read_bytes()
    start = whole.index(content.model["weight"].numpy().tobytes())
    generator = random.Random(0)
    for _ in range(40):
        damaged = bytearray(whole)
        if generator.random() < 0.5:
            damaged[start + generator.randrange(20000)] ^= 1 << generator.randrange(8)
        else:
            place = start + generator.randrange(19000)
            damaged[place : place + 1000] = bytes(1000)
        if damaged == whole:
            continue
        last.write_bytes(damaged)
        with pytest.raises(InputError, match=r"last\.pt: damaged"):
            load_checkpoint(last)
        path, checkpoint, passed_over = newest_checkpoint(tmp_path)
        assert (path, checkpoint.epoch) == (older, 1)
        assert "damaged" in passed_over[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_used(tmp_path, value):
    broken = replace(CONTENT, model={"weight": torch.tensor([1.0, value])}, epoch=0)
    save_checkpoint(tmp_path / "best.pt", broken)
    with pytest.raises(InputError, match=r"best.pt: weight has values that are not finite"):
        open_checkpoint(tmp_path / "best.pt")
    checkpoints = Checkpoints(tmp_path / "checkpoints", lambda: broken, writes=True)
    with pytest.raises(StoppedError, match=r"weight has values that are not finite.*lower optimizer\.lr"):
        checkpoints.save()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_opened_checkpoint_is_that_of_its_hash_in_other_processes_too(tmp_path):
    path = tmp_path / "best.pt"
    save_checkpoint(path, replace(CONTENT, optimizer={"state": {0: torch.zeros(4)}}))
    opened = open_checkpoint(path)
    assert opened.hash == file_hash(path)
    assert opened.checkpoint.optimizer == {}
    there = pickle.loads(pickle.dumps(opened))
    save_checkpoint(path, replace(CONTENT, model={"weight": torch.zeros(3)}))  # a training goes on
    for each in (opened, there):
        assert (each.path, each.hash) == (path, opened.hash)
        assert torch.equal(each.checkpoint.model["weight"], torch.ones(3))
    assert open_checkpoint(path).hash != opened.hash


def test_what_a_foreign_config_refers_to_stays_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    config = CONTENT.config | {"name": "${oc.env:SECRET}", "protocol": {"crop_size": "${data.crop_size}"}}
    save_checkpoint(tmp_path / "best.pt", replace(CONTENT, config=config | {"data": {"crop_size": 64}}))
    found = load_checkpoint(tmp_path / "best.pt").config
    assert found["name"] == "${oc.env:SECRET}"
    assert found["protocol"]["crop_size"] == 64  # as older files say it
