"""`make book`'s pages in a browser: nothing broken, nothing from elsewhere, nothing too wide."""

import contextlib
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from vidlib import settings


@pytest.fixture(scope="module")
def book(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The built book's folder and its address on this machine."""
    pytest.importorskip("myst_nb")
    root = tmp_path_factory.mktemp("book")
    make = (settings.REPO / "Makefile").read_text().partition("\nbook:")[2].partition("\n\n")[0]
    copies = [line.strip("\t@") for line in make.splitlines() if line.startswith("\t@cp")]
    copies = [line.replace("build/", f"{root}/") for line in copies]
    for folder in ("benchmarks", "data/raw_videos"):
        (root / "pages" / folder).mkdir(parents=True)
    subprocess.run("set -e\n" + "\n".join(copies), shell=True, check=True, cwd=settings.REPO)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    built = subprocess.run(
        [*command, "-c", settings.REPO / "docs", root / "pages", root / "book"],
        capture_output=True, text=True, cwd=root,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    shutil.rmtree(root / "pages")  # the book stands alone

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root / "book"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root / "book", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pages(folder: Path) -> list[str]:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*.html")]
    return sorted(n for n in names if not n.startswith("_"))


def test_every_page_reads_on_a_phone_and_on_a_screen(book: tuple[Path, str], browser: Any) -> None:
    folder, address = book
    assert len([n for n in pages(folder) if n.startswith("notebooks/0")]) >= 5
    wrong: list[str] = []

    def hears(page: Any) -> None:
        page.on("console", lambda m: m.type == "error" and "favicon" not in m.location["url"]
                and wrong.append(f"{page.url}: {m.text}"))  # fmt: skip
        page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:"))
                or wrong.append(f"asks for {r.url}"))  # fmt: skip

    for width in (390, 1400):
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        hears(page)
        for name in pages(folder):
            page.goto(f"{address}/{name}")
            wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            if wide > 0:
                wrong.append(f"{name}: {wide} px too wide at {width} px")
            bare = page.locator("article img:not([alt]), article img[alt='']").count()
            if bare:
                wrong.append(f"{name}: {bare} pictures without a text")
        context.close()
    assert wrong == [], "\n".join(wrong)


def test_no_link_is_broken(book: tuple[Path, str]) -> None:
    folder, _ = book
    found = {}
    for name in pages(folder):
        text = (folder / name).read_text(encoding="utf-8")
        found[name] = set(re.findall(r'\bid="([^"]+)"', text)), re.findall(r'href="([^"]+)"', text)
    wrong = []
    for name, (_, links) in found.items():
        for link in links:
            if re.match(r"[a-z]+:", link):
                continue
            target, anchor = urldefrag(urljoin(name, unquote(link.partition("?")[0])))
            if not (folder / target).is_file():
                wrong.append(f"{name}: {link}")
            elif anchor and target in found and anchor not in found[target][0]:
                wrong.append(f"{name}: {link} (no such place)")
    assert wrong == [], "\n".join(wrong)


def test_videos_play_and_words_are_found(book: tuple[Path, str], browser: Any) -> None:
    _, address = book
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    with contextlib.closing(context):
        page = context.new_page()
        page.goto(f"{address}/notebooks/05_predict.html")
        frames = page.locator("article img[src^='data:image/webp']").first.evaluate(
            """async img => {
                const data = (await fetch(img.src)).body;
                const decoder = new ImageDecoder({data, type: "image/webp"});
                await decoder.completed;
                return decoder.tracks.selectedTrack.frameCount; }"""
        )
        assert frames > 10  # a clip that moves
        page.goto(f"{address}/search.html?q=stop-gradient")
        page.locator("#search-results a").first.wait_for()
        names = page.locator("#search-results a").all_inner_texts()
        assert any("SimSiam" in name for name in names)
        for theme in ("light", "dark"):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
            behind = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            grey = sum(int(v) for v in re.findall(r"\d+", behind)[:3]) / 3
            assert (grey > 128) == (theme == "light")
