"""report.html in a real browser: Debian's `chromium`, Google Chrome, or the one that playwright installs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import encode_jpeg

from vsn_train.analysis.report import write_report
from vsn_train.analysis.scores import Scores

NAMES = ["left", "right", "up", "<script>alert('class')</script>"]


def make_scores() -> Scores:
    """40 videos of 4 classes with 5 views; "left" is taken for "right" half of the time; one video is unreadable."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    views = generator.normal(0, 0.3, size=(40, 5, 4)).astype(np.float32)
    views[np.arange(40), :, labels] += 2
    views[:5, :, 1] += 3
    views[39] = np.nan
    return Scores(
        np.array([f"{NAMES[label].strip('<>')}/{index}.mp4" for index, label in enumerate(labels)]),
        labels, views.mean(axis=1), np.array(NAMES),
        {
            "dataset": "made", "split": "val", "checkpoint": "0123456789abcdef", "manifest": "fedcba9876543210",
            "epoch": 3, "protocol": {"name": "fivecrop_1clip", "clips": 1, "crops": 5, "average": "logits"},
            "bad_videos": [{"id": "</script><b>39.mp4", "cause": "no frames"}],
        },
        views,
    )  # fmt: skip


def frames_of(index: int) -> list[bytes]:
    images = torch.full((6, 3, 48, 64), 40 + index, dtype=torch.uint8)
    return [encode_jpeg(image).numpy().tobytes() for image in images]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, make_scores(), frames_of, {"config": "seed: 0\n", "environment": {"cpu_cores": 2}})
    return path


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        if installed is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("found no browser; install one with: apt-get install chromium, or playwright install chromium")
        opened = started.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert wrong == []


def test_the_number_comes_with_its_protocol_interval_and_count(page):
    top = page.locator("header").inner_text()
    scores = make_scores()
    low, high = scores.interval("top1")
    assert f"{scores.top1():.2f} %" in top
    assert f"{low:.2f} to {high:.2f}" in top
    assert "fivecrop_1clip, 5 views a video, n = 40" in top
    assert "</script><b>39.mp4" in page.locator("#bad").inner_text()
    assert page.locator("#bad b").count() == 0
    assert page.locator("#views circle").count() == 3  # 1, 2 and 5 views


def test_clicking_a_class_lists_its_mistakes_and_clicking_again_puts_them_away(page):
    assert page.locator("#found").inner_text() == ""
    page.locator("#bars button[data-class='0']").click()
    assert page.locator("#found li").count() == 5
    assert "left/0.mp4" in page.locator("#found").inner_text()
    assert "taken for right" in page.locator("#found").inner_text()
    page.locator("#bars button[data-class='0']").click()
    assert page.locator("#found li").count() == 0


def test_the_confusion_matrix_tells_the_cell_under_the_pointer_and_lists_the_clicked_one(page):
    miss = page.locator("#confusion rect.miss").first
    miss.hover()
    assert page.locator("#hint").inner_text() == "left taken for right: 5 of 10 (50.0 %)"
    miss.click()
    assert page.locator("#found li").count() == 5
    page.locator("h1").hover()
    assert not page.locator("#hint").is_visible()


def test_classes_can_be_sorted_and_found(page):
    def names() -> list[str]:
        return page.locator("#bars .name").all_inner_texts()

    assert names()[0] == "left"  # the lowest
    page.get_by_role("button", name="By index").click()
    assert names() == NAMES
    page.get_by_label("Find a class").fill("UP")
    assert names() == ["up"]


def test_mistakes_are_shown_with_their_frames(page):
    cards = page.locator(".card")
    assert cards.count() == 5
    assert "Predicted right" in cards.first.inner_text()
    sizes = cards.first.locator("img").evaluate_all("images => images.map((each) => each.naturalWidth)")
    assert sizes == [64] * 6


def test_light_and_dark_follow_the_system_or_the_button(page):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert dark != light
    page.locator("#theme").click()
    assert (page.locator("#theme").inner_text(), background()) == ("Light", light)
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()
    assert (page.locator("#theme").inner_text(), background()) == ("Dark", dark)


def test_a_phone_is_wide_enough(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_file_is_whole(report):
    text = report.read_text(encoding="utf-8")
    assert "http://www.w3.org/2000/svg" in text.replace("https://", "")
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")  # a name, no address: nothing is loaded
    assert text.count("</script>") == 2
    assert "@DATA@" not in text
