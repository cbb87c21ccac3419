"""Text files with one row per video whose cells are separated by commas, tabs, semicolons or spaces."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from vsn_train.errors import InputError


def check_text(text: str, path: Path, advice: str) -> None:
    """Raise InputError, with `advice`, if the text of `path` has zero bytes: it was another kind of file."""
    if "\0" in text:
        raise InputError(f"{path}: not a text file (it contains zero bytes); {advice}")


def split_lines(text: str) -> Iterator[str]:
    """The lines with their line ends. Not by StringIO, which takes four bytes a character, nor by splitlines(), which
    also splits at characters that a file name may contain."""
    return (match[0] for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text))


def read_rows(text: str, path: Path, expected: str, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, from 1; cells) of every row, blank lines included.

    A cell in quotes may contain separators and line ends. Raises InputError, with file, line and what is `expected`,
    for a wrong quote.
    """
    # Strict: otherwise a quote that is never closed would put all lines below it into one cell.
    reader = csv.reader(split_lines(text), delimiter=separator, skipinitialspace=separator == " ", strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        unclosed = "; is a quote not closed?" if reader.line_num > line or "end of data" in str(error) else ""
        raise InputError(f"{path} line {line}: {error}; expected {expected}{unclosed}") from error
