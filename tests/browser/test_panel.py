"""The panel as a person uses it: mouse, keyboard, files, in JupyterLab and as a page of Voila.

Pictures of what was seen are written to $VIDLIB_SCREENSHOTS, to be looked at.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vidlib import video

from .conftest import IDLE, MINUTE, run_notebook_05


def picture(page: Any, name: str) -> None:
    if folder := os.environ.get("VIDLIB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@contextlib.contextmanager
def page_of(browser: Any, width: int, height: int) -> Iterator[Any]:
    """A new page that keeps its scripts' errors in `page.wrong`."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    with contextlib.closing(context):
        yield page


@pytest.fixture(scope="module")
def notebook(lab: str, browser: Any) -> Iterator[Any]:
    """Notebook 05 in JupyterLab, run from the first cell to the last."""
    with page_of(browser, 1400, 1000) as page:
        run_notebook_05(page, lab)
        page.locator(".vidlib-timeline svg").wait_for(state="attached", timeout=4 * MINUTE)
        page.get_by_text(IDLE).wait_for(timeout=2 * MINUTE)
        page.locator(".vidlib-clips").scroll_into_view_if_needed()
        yield page


@pytest.fixture(scope="module")
def page(voila: str, browser: Any) -> Iterator[Any]:
    """The panel as a page of its own."""
    with page_of(browser, 1000, 1200) as page:
        page.goto(voila)
        page.locator(".vidlib-clips").wait_for(timeout=2 * MINUTE)
        yield page


def status(page: Any) -> Any:
    return page.get_by_role("status").filter(has_text=re.compile(r"\S"))


def told(page: Any, text: str | re.Pattern[str], wait: int = MINUTE) -> None:
    status(page).filter(has_text=text).wait_for(timeout=wait)


def predict(page: Any) -> None:
    page.get_by_role("button", name="Predict").click()


def at(page: Any) -> float:
    return float(page.locator("video").evaluate("v => v.currentTime"))


def choose(page: Any, action: str) -> None:
    """Click a clip of the action, until it plays; another one first, so that it is a change."""
    for name in ("boxing" if action != "boxing" else "waving", action):
        label = page.locator(".vidlib-clips label").filter(has_text=name).first
        if label.locator("input").is_checked():
            continue
        before = page.locator("video").get_attribute("src")
        label.click()
        page.wait_for_function("old => document.querySelector('video').src != old", arg=before)
    told(page, "press Predict")


def chosen_is_named(page: Any) -> None:
    """Choose the clip of jumping jacks, press Predict: it is on top, as a bar and in words."""
    choose(page, "jumping_jacks")
    predict(page)
    told(page, re.compile(r"jumping_jacks, \d+\.\d%"))
    first = page.get_by_role("table").filter(has_text="Most probable actions").get_by_role("row")
    assert first.first.inner_text().startswith("jumping_jacks")
    assert page.locator(".vidlib-frames img").count() == 6


def test_notebook_05_runs_and_a_clip_is_named(notebook: Any) -> None:
    picture(notebook, "lab_light_before")
    chosen_is_named(notebook)
    notebook.locator(".vidlib-timeline").scroll_into_view_if_needed()
    picture(notebook, "lab_light")
    assert not notebook.wrong


def test_the_panel_reads_in_the_dark_theme(notebook: Any) -> None:
    notebook.get_by_role("menuitem", name="Settings", exact=True).click()
    notebook.get_by_text("Theme", exact=True).hover()
    notebook.get_by_text("JupyterLab Dark", exact=True).click()
    notebook.locator("body[data-jp-theme-light='false']").wait_for(state="attached", timeout=MINUTE)
    notebook.locator("#jupyterlab-splash").wait_for(state="detached", timeout=MINUTE)
    # WCAG's contrast of the panel's text with what is behind it
    colours = notebook.locator(".vidlib-panel").first.evaluate(
        """el => {
            const behind = n => { for (; n; n = n.parentElement) {
                const c = getComputedStyle(n).backgroundColor;
                if (!/, 0\\)$/.test(c)) return c; } };
            return [getComputedStyle(el).color, behind(el)]; }"""
    )
    light = []
    for colour in colours:
        rgb = np.array([int(v) for v in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    assert max(light) / min(light) > 7
    picture(notebook, "lab_dark")


def test_a_clip_is_chosen_played_and_named(page: Any) -> None:
    chosen_is_named(page)
    before = at(page)
    page.wait_for_function("t => document.querySelector('video').currentTime != t", arg=before)
    picture(page, "voila")
    assert not page.wrong


def test_the_timeline_moves_the_video_and_follows_it(page: Any) -> None:
    chosen_is_named(page)
    band = page.locator(".vidlib-timeline svg")
    box = band.bounding_box()
    length = float(page.locator(".vidlib-timeline input").get_attribute("max"))
    band.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert at(page) == pytest.approx(length / 2, abs=0.1)
    slider = page.get_by_role("slider", name="Position in the video")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    assert at(page) == pytest.approx(length / 2 + 0.3, abs=0.15)
    assert "s: " in slider.get_attribute("aria-valuetext")
    page.locator(".vidlib-frames button").first.click()
    stamp = float(page.locator(".vidlib-frames button").first.inner_text().split(" s")[0])
    assert at(page) == pytest.approx(stamp, abs=0.1)
    page.locator("video").evaluate("v => v.play()")
    page.wait_for_function(
        "t => Math.abs(document.querySelector('.vidlib-timeline input').value - t) > 0.3",
        arg=stamp,
    )


def test_a_large_file_is_uploaded_and_one_that_is_no_video_is_told(
    page: Any, tmp_path: Path
) -> None:
    big = tmp_path / "my own film.avi"
    rng, frames = np.random.default_rng(0), 64
    writer = cv2.VideoWriter(str(big), cv2.VideoWriter.fourcc(*"MJPG"), 25, (960, 720))
    noise = rng.integers(0, 256, (720, 960, 3)).astype(np.uint8)
    for k in range(frames):
        writer.write(np.roll(noise, 8 * k, axis=1))
    writer.release()
    assert big.stat().st_size > 30e6
    (tmp_path / "letter.mp4").write_text("Dear Sir or Madam" * 100)

    files = page.locator(".vidlib-panel input[type=file]")
    files.set_input_files(str(big))
    told(page, "my_own_film.avi: press Predict", 2 * MINUTE)
    page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
    predict(page)
    told(page, re.compile(r"my_own_film.avi: .*%"))
    files.set_input_files(str(tmp_path / "letter.mp4"))
    told(page, re.compile("Error: .*letter.mp4"))
    assert "Traceback" not in status(page).inner_text()
    picture(page, "voila_error")
    chosen_is_named(page)  # it goes on


def test_long_work_is_cancelled(page: Any, tmp_path: Path) -> None:
    film = tmp_path / "ten minutes.webm"
    frame = np.zeros((48, 64, 3), np.uint8)

    def frames() -> Iterator[np.ndarray]:
        for k in range(10 * 60 * 10):
            picture = frame.copy()
            picture[20:30, k % 50 : k % 50 + 10] = 255
            yield picture

    video.write_video(film, frames(), 10)
    box = page.get_by_placeholder("a video file")  # some take the upload for a textbox, too
    box.fill(str(film))
    box.press("Enter")
    told(page, "ten minutes.webm: press Predict")
    predict(page)
    told(page, re.compile(r"predicting … \d+ of 600 s"))
    assert page.get_by_role("button", name="Predict").is_disabled()
    assert page.locator(".progress").is_visible()
    page.get_by_role("button", name="Cancel").click()
    told(page, "cancelled: press Predict to try again")
    chosen_is_named(page)


def test_the_keyboard_is_enough(page: Any) -> None:
    page.reload()
    page.locator(".vidlib-clips").wait_for(timeout=2 * MINUTE)
    told(page, "press Predict")

    def focused() -> str:
        return page.evaluate(
            "() => { const e = document.activeElement; return (e.labels?.[0]?.innerText || "
            "e.getAttribute('aria-label') || e.innerText || e.tagName).trim(); }"
        )

    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.type") == "radio":
            break
    while "jumping_jacks" not in focused():
        before = page.locator("video").get_attribute("src")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("old => document.querySelector('video').src != old", arg=before)
    for _ in range(30):
        if focused() == "Predict":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    told(page, re.compile(r"jumping_jacks, \d+\.\d%"))
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.type") == "range":
            break
    before = at(page)
    page.keyboard.press("ArrowRight")
    assert at(page) != before
    picture(page, "voila_keyboard")
