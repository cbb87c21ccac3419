"""Tables as Markdown and text, and the .md and .json files of a measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from vsn_train.atomic import write_atomic


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded to be readable as plain text; columns after the first are right-aligned."""
    sides = ["left"] + ["right"] * (len(header) - 1)
    # The header as a row: tabulate makes the columns of its own headers two characters wider than they need to be.
    table = tabulate([header, *rows], tablefmt="pipe", disable_numparse=True, colalign=sides)
    rule, first, *others = table.splitlines()
    return "\n".join([first, rule, *others])


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table for a terminal: text left-aligned, numbers right-aligned; floats with two decimals, None as "-".

    A column holds numbers if its first cell that is not None is a number.
    """
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else "-" if cell is None else str(cell) for cell in row]
             for row in rows]  # fmt: skip
    firsts = [next((row[column] for row in rows if row[column] is not None), "") for column in range(len(header))]
    sides = ["left" if isinstance(first, str) else "right" for first in firsts]
    # Text is never read as a number: "20230101" or "1e5" may be the name of a class.
    table = tabulate([header, *cells], tablefmt="plain", disable_numparse=True, colalign=sides)
    return "\n".join(line.rstrip() for line in table.splitlines())


def write_results(output: Path, title: str, facts: Mapping[str, str], text: str, data: Any) -> None:
    """Write <output>.md with title, facts and `text`, and <output>.json with facts and `data`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    write_atomic(output.with_suffix(".md"), f"# {title}\n\n{described}\n\n{text}\n")
    write_atomic(output.with_suffix(".json"), json.dumps({"facts": dict(facts), "results": data}, indent=1) + "\n")
