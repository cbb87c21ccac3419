"""Lists of videos, `path,label[,num_frames]`, as every command reads them and as ours are written.

    train.csv                            train.txt, as TSM, mmaction2 and PySlowFast write it
        path,label,num_frames                dancing/001.mp4 0              <file> <label>
        dancing/001.mp4,dancing,250          dancing/001 250 0              <folder> <num_frames> <label>
        jumping/7.avi,jumping,

Cells are divided by commas, tabs or semicolons; without any of them by blanks, and then what lies on disk decides where
a name ends that holds blanks and numbers itself. A first line that names the column of the paths is a header, and then
the columns may stand in any order beside others; without one they are path, label and, if need be, num_frames.
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
from vsn_train.errors import InputError

# Columns by their names in a header, in any case. Those that hold the label say what it is, too.
PATH_COLUMNS = ("path", "video", "file", "filename", "file_path", "video_path")
LABEL_COLUMNS = {"label": OPEN, "class": NAMES, "class_name": NAMES, "class_index": INDICES}
COUNT_COLUMNS = ("num_frames", "frames")
COLUMNS = ("path", "label", "num_frames")

MOST_FRAMES = 2**31 - 1  # what a manifest's column holds
# Fewer frames than this beside a video file are rather the first of several labels.
LEAST_COUNT = 8
_WITH_TEXT = re.compile(rf"(.+\.(?:{'|'.join(sorted(VIDEO_SUFFIXES))}))\s+(\S.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One listed video. line: 0 where it is of a folder. label: empty where there is none. num_frames: -1 for none."""

    line: int
    path: str
    label: str
    num_frames: int = -1


@dataclass(frozen=True)
class Listing:
    """One list or folder of classes. says: what its labels are, where that shows: NAMES, INDICES or OPEN. note: a line
    on what is left out, or ""."""

    place: Path
    rows: list[Row]
    says: str
    note: str = ""


def read_listing(path: Path, root: Path) -> Listing:
    """The rows of a list whose paths are relative to `root`; no video is opened.

    Raises InputError, with file and line, for what is no list.
    """
    text = _read_text(path)
    first = next((line for _, line in _lines_of(text)), "")
    headed = [each for each in ("\t", ",", ";", " ") if _is_header(_cells(first, each))]
    separator = headed[0] if headed else _separator_of(first)
    if separator:
        rows, says = _read_cells(path, text, separator, root)
    else:
        rows, says = _read_blanks(path, list(_lines_of(text)), root), OPEN
    if not rows:
        raise InputError(f"{path}: the list is empty; expected path,label lines, one video a line")
    return Listing(path, rows, says)


def write_listing(path: Path, rows: Iterable[Row], says: str) -> None:
    """A list that `read_listing` reads as the same rows. says: NAMES or INDICES."""
    rows = list(rows)
    counted = any(row.num_frames > 0 for row in rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "class_index" if says == INDICES else "class", *(["num_frames"] if counted else [])])
    for row in rows:
        writer.writerow([row.path, row.label, *([row.num_frames if row.num_frames > 0 else ""] if counted else [])])
    write_atomic(path, buffer.getvalue())


def class_name_of(text: str) -> str:
    """One spelling of a class's name: macOS writes é as two characters in the names of folders, lists as one."""
    return unicodedata.normalize("NFC", text.strip())


def repeated_rows(rows: Sequence[Row]) -> tuple[str, list[int]] | None:
    """The first path that is listed twice, and the lines of it; None where there is none."""
    lines: dict[str, list[int]] = {}
    for row in rows:
        lines.setdefault(row.path, []).append(row.line)
    return next(((path, numbers) for path, numbers in lines.items() if len(numbers) > 1), None)


def _read_text(path: Path) -> str:
    """UTF-8 or UTF-16 with a byte order mark, or UTF-8 without; names of files may be other bytes, as on disk."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}; expected a list of path,label lines") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a text file ({error.reason}); save it as UTF-8") from error
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise InputError(f"{path}: not a text file (it holds zero bytes); expected a list of path,label lines")
    return text


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without blanks around it) of the lines that are not blank."""
    return ((number, stripped) for number, line in enumerate(_split(text), 1) if (stripped := line.strip()))


def _split(text: str) -> Iterator[str]:
    """The lines with their ends, one at a time: StringIO keeps four bytes for each character. Not by splitlines(),
    which also splits at characters that a name may hold."""
    return (match[0] for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text))


def _cells(line: str, separator: str) -> list[str]:
    """Of a header, in small letters."""
    cells = line.split() if separator == " " else line.split(separator)
    return [cell.strip().strip('"').lower() for cell in cells]


def _is_header(cells: Sequence[str]) -> bool:
    named = [cell for cell in cells if cell in PATH_COLUMNS]
    return bool(named) and ("path" in named or any(cell in LABEL_COLUMNS for cell in cells))


def _separator_of(line: str) -> str:
    """What divides the cells of a list without a header; "" for blanks. That after which the first cell is a video."""
    found = [each for each in ("\t", ",", ";") if each in line]
    for each in found:
        try:
            cell = next(csv.reader([line], delimiter=each))[0].strip()
        except csv.Error:  # said, with its line, where the rows are read
            continue
        if video_name(cell) != cell:
            return each
    # A comma in the name of a TSM list's video: "a,b.mp4 3".
    name, _, label = line.rpartition(" ")
    if found and whole_number(label) is not None and video_name(name.strip()) != name.strip():
        return ""
    return found[0] if found else ""


# ---- Cells -----------------------------------------------------------------------------------------------------------


def _read_cells(listing: Path, text: str, separator: str, root: Path) -> tuple[list[Row], str]:
    """The rows, and what a header says of the labels."""
    # Strict, or a quote that is never closed would take all lines below it into one cell.
    reader = csv.reader(_split(text), delimiter=separator, skipinitialspace=separator == " ", strict=True)
    columns: dict[str, int] = {}
    says, header = OPEN, False
    rows: list[Row] = []
    begin = 1  # line on which the next row begins
    try:
        for raw in reader:
            line, begin = begin, reader.line_num + 1
            cells = [cell.strip() for cell in raw]
            if not any(cells):
                continue
            place = f"{listing} line {line}"
            if not columns:
                names = [cell.lower() for cell in cells]
                if header := _is_header(names):
                    columns, says = _columns_of(names, place)
                    width, shown = len(names), separator.join(names)
                    continue
                if any(name in LABEL_COLUMNS for name in names[1:]) and not os.path.lexists(root / cells[0]):
                    raise InputError(
                        f"{place}: {_shown(separator.join(cells))} names no column of paths; call it path, as in "
                        f"{separator.join(COLUMNS[:2])}"
                    )
                columns = {name: at for at, name in enumerate(COLUMNS)}
                width, shown = len(COLUMNS), separator.join(COLUMNS)
            at = columns["path"]
            if not at < len(cells) <= width or not cells[at]:
                raise InputError(f"{place}: found {_shown(separator.join(cells))}, expected {shown}")
            # Blanks around a name are a part of it where the file is called so.
            path = raw[at] if raw[at] != cells[at] and os.path.lexists(root / raw[at]) else cells[at]
            if ("\n" in path or "\r" in path) and not os.path.lexists(root / path):
                raise InputError(
                    f"{place}: found {_shown(path)} as one path, over several lines; expected {shown}: is a quote "
                    "not closed?"
                )
            label, count = (cells[columns[key]] if columns.get(key, width) < len(cells) else "" for key in COLUMNS[1:])
            rows.append(_row(line, path, label, count, place))
    except csv.Error as error:
        unclosed = ": is a quote not closed?" if reader.line_num > begin or "end of data" in str(error) else ""
        raise InputError(f"{listing} line {begin}: {error}; expected a line of path,label{unclosed}") from error
    if not header:
        _check_columns(rows, listing)
    return rows, says


def _columns_of(names: Sequence[str], place: str) -> tuple[dict[str, int], str]:
    """Which column of a header is which, and what it says of the labels."""
    found: dict[str, str] = {}
    for name in names:
        kinds = {"path": name in PATH_COLUMNS, "label": name in LABEL_COLUMNS, "num_frames": name in COUNT_COLUMNS}
        kind = next((each for each, fits in kinds.items() if fits), "")
        if kind and kind in found:
            what = {"path": "the video", "label": "the class", "num_frames": "the number of frames"}[kind]
            raise InputError(f"{place}: columns {found[kind]} and {name} both name {what}; keep one, rename the other")
        if kind:
            found[kind] = name
    return {kind: names.index(name) for kind, name in found.items()}, LABEL_COLUMNS.get(found.get("label", ""), OPEN)


def _check_columns(rows: list[Row], listing: Path) -> None:
    """Without a header two numbers may also stand as num_frames,label; a 0 can only be a label.

    Raises InputError where nothing tells which is which.
    """
    pairs = [(row, number) for row in rows if row.num_frames > 0 and (number := whole_number(row.label)) is not None]
    if pairs and len(pairs) == sum(bool(row.label) for row in rows) and all(number for _, number in pairs):
        row = pairs[0][0]
        raise InputError(
            f"{listing} line {row.line}: {row.path},{row.label},{row.num_frames} may be path,label,num_frames or "
            "path,num_frames,label; write the one that it is into the first line of the list"
        )


def _row(number: int, path: str, label: str, count: str, place: str) -> Row:
    frames = whole_number(count) if count else -1
    if frames is None or frames == 0:
        raise InputError(
            f"{place}: num_frames {_shown(count)}; expected a whole number above 0, or nothing; if the columns "
            "stand in another order, name them in a first line such as path,num_frames,label"
        )
    if frames > MOST_FRAMES:
        raise InputError(f"{place}: num_frames {count}; expected the number of the video's frames, or nothing")
    return Row(number, path, class_name_of(label), frames)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


# ---- Blanks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """What a line may mean, with so many of its last words as numbers: a path, and label and num_frames as text."""

    words: int
    path: str
    label: str = ""
    count: str = ""


def _read_blanks(listing: Path, lines: list[tuple[int, str]], root: Path) -> list[Row]:
    """`<file> <label>` or `<folder> <num_frames> <label>`, or a path alone."""
    readings = [_readings_of(line) for _, line in lines]
    asked = sorted({each.path for found in readings if len(found) > 1 for each in found})
    there = {path for path, found in zip(asked, find_videos(root, asked), strict=True) if found}
    # What the unambiguous lines are, the others are taken for.
    votes: Counter[int] = Counter()
    for found in readings:
        if len(known := [each.words for each in found if each.path in there]) == 1:
            votes[known[0]] += 1
    usual = votes.most_common(1)[0][0] if votes else 2
    return [
        _row_of_blanks(number, line, found, there, usual, listing, root)
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


def _row_of_blanks(
    number: int, line: str, readings: list[_Reading], there: set[str], usual: int, listing: Path, root: Path
) -> Row:
    place = f"{listing} line {number}"
    known = [each for each in readings if each.path in there]
    numbers = sum(each.words > 0 and whole_number(each.label) is not None for each in readings)
    if known:
        chosen = next((each for each in known if each.words == usual), known[0])
    else:  # none is there: by the form of the line
        by_form = min(numbers, 2) if numbers else int(bool(_WITH_TEXT.fullmatch(line)) and video_name(line) == line)
        chosen = readings[by_form]
    several = chosen.words == 3 or (not known and numbers > 2)
    if chosen.words == 2 and video_name(chosen.path) != chosen.path and not os.path.isdir(root / chosen.path):
        several |= (whole_number(chosen.count) or 0) < LEAST_COUNT
    if several:
        raise InputError(
            f"{place}: found {_shown(line)}; lists with several labels or with offsets are not read, expected "
            "'<file> <label>' or '<folder> <num_frames> <label>'; another list may name its columns in a first line, "
            "such as path,num_frames,label"
        )
    return _row(number, chosen.path, chosen.label, chosen.count, place)
