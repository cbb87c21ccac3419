"""How a file of the fuzzer comes to be wrong: bytes, values, and payloads that would run code."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECRET = "FUZZ_SECRET"  # an environment variable that no file may read


class Payload:
    """Unpickled, it would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (self.marker,)


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """The same with some bytes others, gone or more."""
    if not data:
        return rng.randbytes(rng.randrange(64))
    place = rng.randrange(len(data))
    length = min(len(data) - place, rng.choice((1, 4, 64, 4096)))
    kind = rng.choice(("flip", "zero", "cut", "random", "insert", "remove", "head", "tail", "append"))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == "zero":
        return data[:place] + bytes(length) + data[place + length :]
    if kind == "random":
        return data[:place] + rng.randbytes(length) + data[place + length :]
    if kind == "insert":
        return data[:place] + rng.randbytes(length) + data[place:]
    if kind == "remove":
        return data[:place] + data[place + length :]
    if kind == "append":
        return data + rng.randbytes(length)
    if kind == "head":
        return rng.randbytes(min(16, len(data))) + data[16:]
    if kind == "tail":
        return data[:-16] + rng.randbytes(min(16, len(data)))
    return data[:place]


def odd_text(rng: random.Random) -> str:
    """Text that one program or another trips over."""
    return rng.choice(
        [
            "", " ", "x", "0", "-1", "²", "nan", "1e400", "9" * 400, "$", "$x^2$", "$\\frac{1}{", "\\", "%s", "{}",
            "{0}",
            "\n", "a\nb", "a\rb", "a\u2028b", "\x00", "\x1b[31m", "\ufeff", "é", "e\u0301", "跑步", "🏃", "\u202eabc",
            "../../outside/x", "/etc/hostname", "~", "~root", "-x", "--help", "a,b", "a=b", "[1]", "{a}", "'", '"',
            "a b ",
            f"${{oc.env:{SECRET}}}", "${now:%Y}", "${hydra.run.dir}", "!!python/object/apply:os.mkdir [ran]", "x" * 255,
            "x" * 5000, "</script><script>alert(1)</script>", "null", "true", "???", "file:x", "concat:a|b", "con",
            "a/b", ".",
            "..", "left", "turn left",
        ]
    )  # fmt: skip


def odd_number(rng: random.Random) -> Any:
    return rng.choice(
        [-1, 0, 1, 2, 7, 1.5, -0.0, 255, 256, 1000, 65536, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, 10**400,
        -(10**30),
         1e-300, 1e300, float("nan"), float("inf"), float("-inf"), True, False]
    )  # fmt: skip


def odd_value(rng: random.Random, plain: bool = False) -> Any:
    """Of any type. plain: one that JSON can say."""
    kind = rng.randrange(10)
    if kind < 3:
        return odd_number(rng)
    if kind < 6:
        return odd_text(rng)
    if kind < 8 or plain:
        deep: Any = []
        for _ in range(rng.choice((1, 3, 30, 300))):
            deep = [deep]
        return rng.choice(
            [None, [], {}, [None], [[]], [[1, 2]], [[9, 9]], ["a"], [1, "a"], {"a": 1}, {"a": {"b": []}}, deep,
             list(range(1000)), {str(key): key for key in range(1000)}, [odd_text(rng)],
             {odd_text(rng): odd_number(rng)}]
        )  # fmt: skip
    if kind == 8:
        return rng.choice([b"", b"x", b"\xff" * 99, (1, 2), {1: 2}, {None: 1}, 1j, "\ud800", ("a",)])
    return rng.choice(
        [
            torch.zeros(2), torch.zeros(0), torch.tensor(3), torch.full((2,), float("nan")), torch.zeros(2,
            dtype=torch.int64),
            torch.zeros(1).expand(10**9, 512), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta"),
            torch.zeros(3, dtype=torch.complex64), torch.zeros(2, 2).t(), torch.zeros((1,) * 60), torch.zeros(2,
            dtype=torch.bool),
        ]
    )  # fmt: skip


def tree_of(content: dict[str, Any], rng: random.Random, plain: bool = False) -> dict[str, Any]:
    """A table of tables with one to three of its values others, gone, moved or more. Tensors are shared, not copied."""
    found = _copied(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        table: Any = found
        while True:
            keys = list(table) if isinstance(table, dict) else list(range(len(table)))
            if not keys:
                break
            key = rng.choice(keys)
            below = table[key]
            if isinstance(below, dict | list) and below and rng.random() < 0.75:
                table = below
                continue
            _change(table, key, rng, plain)
            break
    return found


def _change(table: Any, key: Any, rng: random.Random, plain: bool) -> None:
    how = rng.choice(("value", "value", "value", "like", "gone", "more", "name"))
    if how == "gone":
        del table[key]
    elif how == "like" and isinstance(table[key], torch.Tensor):
        tensor = table[key]
        choices = [
            tensor[:1], tensor.double(), tensor.half(), tensor * float("nan"), tensor.flatten(), tensor[None],
            tensor.long(),
        ] if tensor.ndim else [tensor[None], tensor.double()]  # fmt: skip
        table[key] = rng.choice(choices)
    elif how == "more" and isinstance(table, dict):
        table[odd_text(rng) or "more"] = odd_value(rng, plain)
    elif how == "more":
        table.append(odd_value(rng, plain))
    elif how == "name" and isinstance(table, dict):
        table[odd_text(rng)] = table.pop(key)
    else:
        table[key] = (
            odd_number(rng) if isinstance(table[key], int | float) and rng.random() < 0.6 else odd_value(rng, plain)
        )


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(each) for each in value]
    return value if isinstance(value, torch.Tensor) else copy.copy(value)


def json_of(content: Any, rng: random.Random) -> str:
    """The text of a table with something wrong in it, or of none at all."""
    if rng.random() < 0.2:
        return rng.choice(["", "{", "[]", "null", "3", '"x"', "nan", "[" * 100_000, "\x00", "{}", '{"a": 1}' * 2])
    return json.dumps(tree_of(content, rng, plain=True))


def pickled(marker: Path, rng: random.Random, like: bytes) -> bytes:
    """A file that would run code where anybody unpickled it. like: a file of torch.save, for its outer form."""
    form = rng.randrange(4)
    if form == 0:
        return pickle.dumps({"format": 2, "model": Payload(marker)}, protocol=2)
    if form == 1:
        buffer = io.BytesIO()
        torch.save({"format": 2, "config": Payload(marker), "model": {}}, buffer)
        return buffer.getvalue()
    if form == 2:
        buffer = io.BytesIO()
        torch.save({"a": Payload(marker)}, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(like)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            code = name.endswith("data.pkl")
            target.writestr(name, pickle.dumps(Payload(marker), 2) if code else source.read(name))
    return buffer.getvalue()


def zipped(like: bytes, rng: random.Random) -> bytes:
    """A zip file whose entries are others: gone, twice, compressed, with names that lead out of any folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(like)) as source:
        names = source.namelist()
        how = rng.choice(("gone", "twice", "packed", "outside", "none", "bomb", "folder"))
        chosen = rng.choice(names)
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED) as target:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                for name in names if how != "none" else ():
                    if how == "gone" and name == chosen:
                        continue
                    target.writestr(name, source.read(name))
                    if how == "twice" and name == chosen:
                        target.writestr(name, bytes(7))
                if how == "outside":
                    target.writestr("../../outside/written", b"x")
                    target.writestr("/tmp/fuzz-written", b"x")
                if how == "folder":
                    target.writestr(chosen + "/x", b"x")
                if how == "bomb":
                    target.writestr("more", bytes(1 << 24), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def arrays_of(arrays: dict[str, np.ndarray], marker: Path, rng: random.Random) -> bytes:
    """An .npz in which one or two arrays are of another shape, type or content, or claim to be vast."""
    found = dict(arrays)
    raw: dict[str, bytes] = {}
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(found))
        array = found[name]
        how = rng.randrange(12)
        if how == 0:
            del found[name]
            if not found:
                break
        elif how == 1:
            found[name] = array[:1] if array.ndim else np.array([array] * 3)
        elif how == 2:
            found[name] = array.astype("U") if array.dtype.kind != "U" else np.char.encode(array, "utf-8")
        elif how == 3:
            found[name] = np.full(array.shape, odd_float(rng), np.float64)
        elif how == 4 and array.dtype.kind in "fi":
            changed = array.copy().reshape(-1)
            if changed.size:
                value = odd_float(rng)
                limited = value if array.dtype.kind == "f" else int(np.clip(np.nan_to_num(value), -(2**31), 2**31 - 1))
                changed[rng.randrange(changed.size)] = limited
            found[name] = changed.reshape(array.shape)
        elif how == 5:
            found[name] = np.array([odd_text(rng) or "x" for _ in range(max(1, len(array) if array.ndim else 1))])
        elif how == 6:
            raw[name] = pickled_array(marker)
        elif how == 7:
            raw[name] = vast_array(rng)
        elif how == 8:
            found[name] = np.zeros((0,) * max(1, array.ndim), array.dtype)
        elif how == 9:
            found[name] = array[None]
        elif how == 10 and name == "facts":
            found[name] = np.array(json_of(json.loads(str(array)), rng))
        else:
            found[odd_text(rng)[:40].replace("/", "_").replace("\x00", "") or "more"] = np.arange(3)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in found.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", raw.get(name, part.getvalue()))
    return buffer.getvalue()


def odd_float(rng: random.Random) -> float:
    value = float("inf")
    while True:
        try:
            value = float(odd_number(rng))
            return value
        except OverflowError:
            continue


def pickled_array(marker: Path) -> bytes:
    part = io.BytesIO()
    np.lib.format.write_array(part, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return part.getvalue()


def vast_array(rng: random.Random) -> bytes:
    """A small file that says it holds more than any memory."""
    shape = rng.choice(
        ["(1000000000000,)", "(100000, 100000)", "(9223372036854775807, 9)", "(-1,)", "(4, 5000000000)", "'x'"]
    )
    kind = rng.choice(["<f4", "<i8", "|S100000000", "<U90000000", "|O", "<x9", "V8"])
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head = head.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)
