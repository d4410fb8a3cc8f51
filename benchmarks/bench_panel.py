"""What a learner waits for in the panel: notebook 05 from opening to the panel standing, and a
click on Predict to its answer.

    python benchmarks/bench_panel.py

In a real JupyterLab and Debian's Chromium, as `tests/browser` starts them. Seconds on the wall,
Playwright's own (some hundredths) among them.
"""

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timing

from vidlib import settings, studio

sys.path.insert(0, str(settings.REPO / "tests" / "browser"))
from conftest import CHROMIUM, IDLE, MINUTE, QUIET, jupyter_lab, run_notebook_05  # noqa: E402

ROUNDS, CLICKS = 3, 20


def opened(page: Any, lab: str) -> float:
    """Open notebook 05, run all its cells; seconds until the panel stands."""
    began = time.perf_counter()
    run_notebook_05(page, lab)
    page.locator(".vidlib-clips").first.wait_for(state="attached", timeout=4 * MINUTE)
    return time.perf_counter() - began


def rested(page: Any) -> None:
    """Return when all cells have run: the kernel is idle for some seconds, not between two."""
    quiet = 0
    while quiet < 6:
        page.wait_for_timeout(500)
        idle = page.get_by_text(IDLE).is_visible()
        quiet = quiet + 1 if idle else 0


def answered(page: Any, clip: int) -> float:
    """Choose a clip, press Predict; seconds from the click to the answer in words."""
    label = page.locator(".vidlib-clips label").nth(clip)
    label.click()
    said = page.get_by_role("status").filter(has_text=re.compile(r"\S"))
    said.filter(has_text="press Predict").wait_for(timeout=MINUTE)
    began = time.perf_counter()
    page.get_by_role("button", name="Predict").click()
    said.filter(has_text=re.compile(r"\d\d?\.\d%")).wait_for(timeout=MINUTE)
    return time.perf_counter() - began


def main() -> None:
    if not CHROMIUM:
        print("no Chromium here (apt-get install chromium): the panel is left out")
        return
    with timing.section("The panel", ("jupyterlab", "ipywidgets", "playwright"), False) as page:
        measure(page)


def measure(section: timing.Section) -> None:
    from playwright.sync_api import sync_playwright

    studio.make_dataset()
    standing, answers = [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for i in range(ROUNDS):  # a server and a kernel of its own each time, as in an afternoon
            with jupyter_lab(Path(folder) / str(i)) as lab:
                page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
                standing.append(opened(page, lab))
                if i < ROUNDS - 1:
                    continue
                rested(page)
                clips = page.locator(".vidlib-clips label").count()
                answers = [answered(page, (k + 1) % clips) for k in range(CLICKS + 1)]
        chromium.close()
    section.table(("", "median", "range"),
                  [[what, timing.brief(t), f"{min(t):.2f} to {max(t):.2f} s"]
                   for what, t in (("notebook 05, opened to the panel standing", standing),
                                   ("the first click to its answer", answers[:1]),
                                   (f"the {CLICKS} after it", answers[1:]))])  # fmt: skip


if __name__ == "__main__":
    main()
