"""Tables as Markdown, and the two files that a measurement leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too; columns after the first to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in (header, *rows)]  # fmt: skip
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


def write_results(output: Path, title: str, facts: Mapping[str, str], text: str, data: Any) -> None:
    """<output>.md: title, facts, `text`. <output>.json: facts and `data`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    described = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    output.with_suffix(".md").write_text(f"# {title}\n\n{described}\n\n{text}\n", encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps({"facts": dict(facts), "results": data}, indent=1) + "\n")
