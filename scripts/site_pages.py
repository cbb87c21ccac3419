"""Hooks for MkDocs, see `hooks` in mkdocs.yml: add pages from the top of the repository, and rewrite links.

The documents are written for the repository, where a link may lead to any file. On the site, a link to a file outside
docs/ becomes the path of the file, because the repository has no public address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # in the repository -> on the site
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Hook of MkDocs: add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Hook of MkDocs for each page: rewrite its links, see `site_links`."""
    uri = page.file.src_uri
    top = next((source for source, name in PAGES.items() if name == uri), None)
    return site_links(markdown, Path(top) if top else Path("docs", uri))


def site_links(markdown: str, source: Path) -> str:
    """The text of a page with links rewritten for the site. source: its file, relative to the repository."""
    here = Path("docs") if source.parent == Path() else source.parent  # folder of the page on the site

    def replaced(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = ((ROOT / source).parent / path).resolve().relative_to(ROOT)
        if target.as_posix() in PAGES:
            target = Path("docs", PAGES[target.as_posix()])
        elif target.as_posix() == "README.md":
            target, anchor = Path("docs/index.md"), ""
        elif target.parts[0] != "docs":
            return f"`{target.as_posix()}`" if text.strip("`") == target.name else f"{text} (`{target.as_posix()}`)"
        return f"[{text}]({Path(*['..'] * (len(here.parts) - 1), *target.parts[1:]).as_posix()}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)  # code blocks are not changed
    return "".join(part if number % 2 else LINK.sub(replaced, part) for number, part in enumerate(parts))
