"""A real JupyterLab and a real Voila page in Debian's Chromium. Skipped where there is none."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlib import settings, studio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# a page that is closed to the outside: nothing is looked up, nothing is sent
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip


MINUTE = 60_000  # milliseconds, what Playwright waits in
IDLE = "Python 3 (ipykernel) | Idle"


@contextlib.contextmanager
def server(command: list[str], ready: str, home: Path) -> Iterator[str]:
    """Start a server on a free port of this machine; -> its address once `ready` answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", home / "server.log"
    home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home),
        "JUPYTER_RUNTIME_DIR": str(home / "run"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "ws"),
        "PYTHONPATH": str(settings.REPO),
    }  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            [part.replace("PORT", str(port)) for part in command],
            env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=home,
        )  # fmt: skip
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + ready, timeout=5).close()
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
        else:
            raise AssertionError(f"no answer within a minute: {log.read_text()}")
        yield address
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        it = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield it
        it.close()


@contextlib.contextmanager
def jupyter_lab(home: Path) -> Iterator[str]:
    """JupyterLab's address; it shows copies of the notebooks and of the pictures beside them."""
    for folder in ("notebooks", "docs"):
        shutil.copytree(settings.REPO / folder, home / folder)
    # no question about news, no autosaving
    for plugin, values in (
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
        ("docmanager-extension/plugin", {"autosave": False}),
    ):
        file = home / "lab" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ServerApp.port=PORT", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={home}"]  # fmt: skip
    with server(command, "/api/status", home) as address:
        yield address


def run_notebook_05(page: Any, lab: str) -> None:
    """Open notebook 05 in JupyterLab and have all its cells run; returns while they do."""
    page.goto(f"{lab}/lab/tree/notebooks/05_predict.ipynb")
    page.get_by_text(IDLE).wait_for(timeout=2 * MINUTE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("#jp-mainmenu-run").get_by_text("Run All Cells", exact=True).click()


@pytest.fixture(scope="session")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """See `jupyter_lab`."""
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as address:
        yield address


@pytest.fixture(scope="session")
def voila(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the panel as a page of its own."""
    home = tmp_path_factory.mktemp("voila")
    studio.make_dataset()
    command = [sys.executable, "-m", "voila", str(settings.REPO / "docs" / "panel.ipynb"),
               "--no-browser", "--port=PORT"]  # fmt: skip
    with server(command, "/voila/static/voila.js", home) as address:  # "/" would run the page
        yield address
