"""The documentation site: what the links of the pages become on it, and, with the extra docs, that it builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.site_pages import PAGES, site_links

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/speed.md", "[s](scaling.md#a) ", "[s](scaling.md#a) "),
        ("docs/speed.md", "[step.py](../vsn_train/bench/step.py)", "`vsn_train/bench/step.py`"),
        ("docs/speed.md", "[the code](../vsn_train/bench/step.py)", "the code (`vsn_train/bench/step.py`)"),
        ("docs/speed.md", "[c](../CONTRIBUTING.md#release)", "[c](contributing.md#release)"),
        ("docs/speed.md", "![x](results/motion.png)", "![x](results/motion.png)"),
        ("docs/reference/python.md", "[u](../use-your-model.md)", "[u](../use-your-model.md)"),
        ("CONTRIBUTING.md", "[u](docs/upgrading.md) [r](README.md)", "[u](upgrading.md) [r](index.md)"),
        ("CONTRIBUTING.md", "```\n[u](docs/upgrading.md)\n```", "```\n[u](docs/upgrading.md)\n```"),
        ("docs/speed.md", "[w](https://example.org/a)", "[w](https://example.org/a)"),
    ],
)
def test_links_on_the_site(source, text, expected):
    assert site_links(text, Path(source)) == expected


def test_every_page_is_in_the_navigation():
    text = re.sub(r"^plugins:.*?^(?=markdown_extensions)", "", (ROOT / "mkdocs.yml").read_text(), flags=re.M | re.S)
    nav = yaml.safe_load(text)["nav"]
    pages = [page for section in nav for entries in section.values() for entry in entries for page in entry.values()]
    assert len(pages) == len(set(pages))
    there = [
        path.relative_to(ROOT / "docs").as_posix()
        for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md"))
    ]
    assert set(pages) == {*there, *PAGES.values()}


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="needs the extra docs")
def test_it_builds_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")], cwd=ROOT,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    assert "vsn_train.trained.TrainedModel" in reference
    assert (tmp_path / "site" / "changelog.html").is_file()
