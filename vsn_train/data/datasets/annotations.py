"""Find and read official annotation files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vsn_train.data.datasets.separated import check_text
from vsn_train.errors import InputError


def video_root(root: Path, official: Sequence[str], expected: str) -> Path:
    """The folder of the videos: `root`, or the folder of an official name in it.

    expected: the expected content of the root, for the message. Raises InputError if there is no such folder.
    """
    if not root.is_dir():
        found = "a file, not a folder" if root.exists() else "no such folder"
        raise InputError(f"dataset.root={root}: {found}; expected {expected}")
    return next((root / name for name in official if (root / name).is_dir()), root)


def search_places(root: Path, annotations: Path | None, *subfolders: str) -> list[Path]:
    """The folders to search for annotation files: `annotations`, or the root and its parent; and subfolders of each.

    Raises InputError if `annotations` is given and is no folder.
    """
    if annotations and not annotations.is_dir():
        raise InputError(f"dataset.annotations={annotations}: no such folder; expected the one of the official files")
    tops = [annotations] if annotations else [root, root.parent]
    return [place for top in tops for place in (top, *(top / name for name in subfolders)) if place.is_dir()]


def find_file(places: Sequence[Path], names: Sequence[str]) -> Path:
    """The first of `names` in the first of `places` that has one.

    Raises InputError, which lists the files found instead, such as those of another data set.
    """
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    present = sorted(path.name for place in places for path in place.glob("*") if path.suffix in (".csv", ".json"))
    instead = f", only {', '.join(present[:4])}{', …' if len(present) > 4 else ''}" if present else ""
    raise InputError(
        f"found no {' or '.join(names)} in {', '.join(map(str, places))}{instead}; unpack the official annotation "
        "files there, or name their folder with dataset.annotations"
    )


def read_text(path: Path) -> str:
    """Read UTF-8 text with or without a byte order mark. Raises InputError if the file is missing or not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}; expected an official annotation file") from error
    check_text(text, path, "copy or unpack it again")
    return text


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank: (line number from 1, text without surrounding whitespace)."""
    # Not splitlines(): it also splits at characters that a class name may contain.
    lines = read_text(path).split("\n")
    return [(number, text) for number, line in enumerate(lines, 1) if (text := line.strip())]


def class_indices(names: Sequence[tuple[int, str]], path: Path) -> dict[str, int]:
    """Class name -> index, from (line number, name) in index order. Raises InputError for a repeated name."""
    classes: dict[str, int] = {}
    for number, name in names:
        if name in classes:
            raise InputError(f"{path} line {number}: class {name!r} is repeated; expected each class once")
        classes[name] = len(classes)
    if not classes:
        raise InputError(f"{path}: the file is empty; expected one class per line")
    return classes


def index_of(name: str, classes: dict[str, int], place: str, labels: str) -> int:
    """The index of a class. place: file and line. labels: the file that lists the classes. Raises InputError."""
    if name not in classes:
        raise InputError(
            f"{place}: class {name[:80]!r} is not one of the {len(classes)} classes of {labels}; correct the line, or "
            "use both files of the same data set"
        )
    return classes[name]
