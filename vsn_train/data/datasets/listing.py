"""Lists of videos, `path,label[,num_frames]`: the one reader of all commands, and the writer.

    train.csv                            train.txt, as TSM, mmaction2 and PySlowFast write it
        path,label,num_frames                dancing/001.mp4 0              <file> <label>
        dancing/001.mp4,dancing,250          dancing/001 250 0              <folder> <num_frames> <label>
        jumping/7.avi,jumping,

Columns are separated by commas, tabs or semicolons, or else by spaces. In a list separated by spaces, a path may itself
contain spaces and numbers; the files on disk then decide where it ends. A first line with a column name for the paths
is a header: the columns may then be in any order, and others are ignored. Without a header the columns are path, label
and, optionally, num_frames.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsn_train.atomic import write_atomic
from vsn_train.data.datasets.listed_labels import INDICES, NAMES, OPEN, whole_number
from vsn_train.data.datasets.presence import VIDEO_SUFFIXES, find_videos, video_name
from vsn_train.data.datasets.separated import check_text, read_rows, split_lines
from vsn_train.errors import InputError

# Column names of a header, in any case. The name of the label column also gives the kind of its labels.
PATH_COLUMNS = ("path", "video", "file", "filename", "file_path", "video_path")
LABEL_COLUMNS = {"label": OPEN, "class": NAMES, "class_name": NAMES, "class_index": INDICES}
COUNT_COLUMNS = ("num_frames", "frames")
COLUMNS = ("path", "label", "num_frames")

MOST_FRAMES = 2**31 - 1  # the manifest's column is int32
# A smaller number after the name of a video file is more likely the first of several labels than num_frames.
LEAST_COUNT = 8
_WITH_TEXT = re.compile(rf"(.+\.(?:{'|'.join(sorted(VIDEO_SUFFIXES))}))\s+(\S.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One video. line: from 1; 0 for a video of a class folder. label: "" if missing. num_frames: -1 if missing."""

    line: int
    path: str
    label: str
    num_frames: int = -1


@dataclass(frozen=True)
class Listing:
    """One list or folder of classes. label_kind: NAMES or INDICES by header or folder, else OPEN. note: one line about
    files that were left out, or ""."""

    place: Path
    rows: list[Row]
    label_kind: str
    note: str = ""


def read_listing(path: Path, root: Path) -> Listing:
    """Read a list whose paths are relative to `root`. No video is opened.

    Raises InputError, with file and line, for a file that is not such a list.
    """
    text = _read_text(path)
    first = next((line for _, line in _lines_of(text)), "")
    headed = [each for each in ("\t", ",", ";", " ") if _is_header(_cells(first, each))]
    separator = headed[0] if headed else _separator_of(first)
    if separator:
        rows, label_kind = _read_cells(path, text, separator, root)
    else:
        rows, label_kind = _read_spaced(path, list(_lines_of(text)), root), OPEN
    if not rows:
        raise InputError(f"{path}: the list is empty; expected lines of path,label, one per video")
    return Listing(path, rows, label_kind)


def write_listing(path: Path, rows: Iterable[Row], label_kind: str) -> None:
    """Write a list from which `read_listing` reads the same rows. label_kind: NAMES or INDICES."""
    rows = list(rows)
    counted = any(row.num_frames > 0 for row in rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "class_index" if label_kind == INDICES else "class", *(["num_frames"] if counted else [])])
    for row in rows:
        writer.writerow([row.path, row.label, *([row.num_frames if row.num_frames > 0 else ""] if counted else [])])
    write_atomic(path, buffer.getvalue())


def class_name_of(text: str) -> str:
    """The class name in Unicode's composed form (NFC); macOS stores é in folder names as two characters."""
    return unicodedata.normalize("NFC", text.strip())


def repeated_rows(rows: Sequence[Row]) -> tuple[str, list[int]] | None:
    """The first path that is listed more than once, with its line numbers; None if there is none."""
    lines: dict[str, list[int]] = {}
    for row in rows:
        lines.setdefault(row.path, []).append(row.line)
    return next(((path, numbers) for path, numbers in lines.items() if len(numbers) > 1), None)


def _read_text(path: Path) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark. Other bytes are kept, because file names may contain them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}; expected a list with lines of path,label") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a text file ({error.reason}); save it as UTF-8") from error
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    check_text(text, path, "expected a list with lines of path,label")
    return text


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, stripped text) of every line that is not blank."""
    return ((number, stripped) for number, line in enumerate(split_lines(text), 1) if (stripped := line.strip()))


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a possible header, in lower case."""
    cells = line.split() if separator == " " else line.split(separator)
    return [cell.strip().strip('"').lower() for cell in cells]


def _is_header(cells: Sequence[str]) -> bool:
    named = [cell for cell in cells if cell in PATH_COLUMNS]
    return bool(named) and ("path" in named or any(cell in LABEL_COLUMNS for cell in cells))


def _separator_of(line: str) -> str:
    """The separator of a list without a header: the one whose first cell is a video's name. "" for spaces."""
    found = [each for each in ("\t", ",", ";") if each in line]
    for each in found:
        try:
            cell = next(csv.reader([line], delimiter=each))[0].strip()
        except csv.Error:  # reported with its line when the rows are read
            continue
        if video_name(cell) != cell:
            return each
    # A video of a TSM list with a comma in its name: "a,b.mp4 3".
    name, _, label = line.rpartition(" ")
    if found and whole_number(label) is not None and video_name(name.strip()) != name.strip():
        return ""
    return found[0] if found else ""


# ---- Separated by commas, tabs or semicolons -------------------------------------------------------------------------


def _read_cells(listing: Path, text: str, separator: str, root: Path) -> tuple[list[Row], str]:
    """The rows, and the kind of the labels that a header gives."""
    columns: dict[str, int] = {}
    label_kind, header = OPEN, False
    rows: list[Row] = []
    for line, raw in read_rows(text, listing, "a line of path,label", separator):
        cells = [cell.strip() for cell in raw]
        if not any(cells):
            continue
        place = f"{listing} line {line}"
        if not columns:
            names = [cell.lower() for cell in cells]
            if header := _is_header(names):
                columns, label_kind = _columns_of(names, place)
                width, shown = len(names), separator.join(names)
                continue
            if any(name in LABEL_COLUMNS for name in names[1:]) and not os.path.lexists(root / cells[0]):
                raise InputError(
                    f"{place}: {_shown(separator.join(cells))} has no column of paths; name it path, as in "
                    f"{separator.join(COLUMNS[:2])}"
                )
            columns = {name: at for at, name in enumerate(COLUMNS)}
            width, shown = len(COLUMNS), separator.join(COLUMNS)
        at = columns["path"]
        if not at < len(cells) <= width or not cells[at]:
            raise InputError(f"{place}: found {_shown(separator.join(cells))}, expected {shown}")
        # Spaces around the name belong to it if the file on disk has them.
        path = raw[at] if raw[at] != cells[at] and os.path.lexists(root / raw[at]) else cells[at]
        if ("\n" in path or "\r" in path) and not os.path.lexists(root / path):
            raise InputError(
                f"{place}: found {_shown(path)} as one path over several lines; expected {shown}; is a quote "
                "not closed?"
            )
        label, count = (cells[columns[key]] if columns.get(key, width) < len(cells) else "" for key in COLUMNS[1:])
        rows.append(_row(line, path, label, count, place))
    if not header:
        _check_columns(rows, listing)
    return rows, label_kind


def _columns_of(names: Sequence[str], place: str) -> tuple[dict[str, int], str]:
    """Column -> its index in the header, and the kind of the labels that the header gives."""
    found: dict[str, str] = {}
    for name in names:
        kinds = {"path": name in PATH_COLUMNS, "label": name in LABEL_COLUMNS, "num_frames": name in COUNT_COLUMNS}
        kind = next((each for each, fits in kinds.items() if fits), "")
        if kind and kind in found:
            what = {"path": "the video", "label": "the class", "num_frames": "the number of frames"}[kind]
            raise InputError(f"{place}: columns {found[kind]} and {name} both give {what}; keep one, rename the other")
        if kind:
            found[kind] = name
    return {kind: names.index(name) for kind, name in found.items()}, LABEL_COLUMNS.get(found.get("label", ""), OPEN)


def _check_columns(rows: list[Row], listing: Path) -> None:
    """Raise InputError if all rows have two numbers that may be label,num_frames or num_frames,label.

    Only called without a header. A 0 can only be a label.
    """
    pairs = [(row, number) for row in rows if row.num_frames > 0 and (number := whole_number(row.label)) is not None]
    if pairs and len(pairs) == sum(bool(row.label) for row in rows) and all(number for _, number in pairs):
        row = pairs[0][0]
        raise InputError(
            f"{listing} line {row.line}: {row.path},{row.label},{row.num_frames} may be path,label,num_frames or "
            "path,num_frames,label; add the right one as the first line of the list"
        )


def _row(number: int, path: str, label: str, count: str, place: str) -> Row:
    frames = whole_number(count) if count else -1
    if frames is None or frames == 0:
        raise InputError(
            f"{place}: num_frames {_shown(count)}; expected a whole number above 0, or an empty cell; if the "
            "columns are in another order, name them in a first line such as path,num_frames,label"
        )
    if frames > MOST_FRAMES:
        raise InputError(f"{place}: num_frames {count}; expected the video's number of frames, or an empty cell")
    return Row(number, path, class_name_of(label), frames)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


# ---- Separated by spaces ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """One possible meaning of a line. words: how many words follow the path. label, count: as text."""

    words: int
    path: str
    label: str = ""
    count: str = ""


def _read_spaced(listing: Path, lines: list[tuple[int, str]], root: Path) -> list[Row]:
    """Read lines of `<file> <label>`, `<folder> <num_frames> <label>` or a path alone."""
    readings = [_readings_of(line) for _, line in lines]
    asked = sorted({each.path for found in readings if len(found) > 1 for each in found})
    there = {path for path, found in zip(asked, find_videos(root, asked), strict=True) if found}
    # Ambiguous lines are read in the form of most unambiguous ones.
    votes: Counter[int] = Counter()
    for found in readings:
        if len(known := [each.words for each in found if each.path in there]) == 1:
            votes[known[0]] += 1
    usual = votes.most_common(1)[0][0] if votes else 2
    return [
        _row_of_line(number, line, found, there, usual, listing, root)
        for (number, line), found in zip(lines, readings, strict=True)
    ]


def _readings_of(line: str) -> list[_Reading]:
    found, rest = [_Reading(0, line)], line
    numbers: list[str] = []
    while len(numbers) < 3:
        before, _, last = rest.rpartition(" ")
        if not before.strip() or whole_number(last) is None:
            break
        rest, numbers = before.strip(), [last, *numbers]
        found.append(_Reading(len(numbers), rest, numbers[-1], numbers[-2] if len(numbers) == 2 else ""))
    if not numbers:
        if text := _WITH_TEXT.fullmatch(line):
            found.append(_Reading(1, text[1], text[2]))
        elif " " in line:
            before, _, last = line.rpartition(" ")
            found.append(_Reading(1, before.strip(), last))
    return found


def _row_of_line(
    number: int, line: str, readings: list[_Reading], there: set[str], usual: int, listing: Path, root: Path
) -> Row:
    place = f"{listing} line {number}"
    known = [each for each in readings if each.path in there]
    numbers = sum(each.words > 0 and whole_number(each.label) is not None for each in readings)
    if known:
        chosen = next((each for each in known if each.words == usual), known[0])
    else:  # no such file on disk: decide by the form of the line
        by_form = min(numbers, 2) if numbers else int(bool(_WITH_TEXT.fullmatch(line)) and video_name(line) == line)
        chosen = readings[by_form]
    several = chosen.words == 3 or (not known and numbers > 2)
    if chosen.words == 2 and video_name(chosen.path) != chosen.path and not os.path.isdir(root / chosen.path):
        several |= (whole_number(chosen.count) or 0) < LEAST_COUNT
    if several:
        raise InputError(
            f"{place}: found {_shown(line)}; lists with several labels or offsets are not supported; expected "
            "'<file> <label>' or '<folder> <num_frames> <label>'; for another list, name its columns in a first line "
            "such as path,num_frames,label"
        )
    return _row(number, chosen.path, chosen.label, chosen.count, place)
