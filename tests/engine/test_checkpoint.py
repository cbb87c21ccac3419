import pickle
from dataclasses import replace

import pytest
import torch

from tests.runs import checkpoint_with
from vsn_train.engine.checkpoint import load_checkpoint, save_checkpoint
from vsn_train.errors import InputError

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
