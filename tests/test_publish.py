"""Where the course is published is written wherever it is needed; the set-up cell uses it."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from notebook_checks import REPO, load, text_of
from vidlib import course

spec = importlib.util.spec_from_file_location("publish", REPO / "docs" / "publish.py")
assert spec and spec.loader
publish = importlib.util.module_from_spec(spec)
spec.loader.exec_module(publish)
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("README.md", "docs/conf.py", *(f"notebooks/{p.name}" for p in NOTEBOOKS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    return tmp_path


def test_every_place_names_the_repository(copy: Path) -> None:
    for name in ("bob/old.name", "ann/course"):  # the second time it moves
        publish.publish(name, copy)
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert "bob" not in readme
    for path in NOTEBOOKS:
        assert f"/ann/course/blob/main/notebooks/{path.name})" in readme
        assert f"/ann/course/main?urlpath=lab/tree/notebooks/{path.name})" in readme
        stored = copy / "notebooks" / path.name
        assert 'SOURCE = "https://github.com/ann/course"' in text_of(set_up(stored)["source"])
        assert stored.stat().st_size == path.stat().st_size + len(source_of(stored))
    for picture in re.findall(r"\]\((docs/\w+\.svg)\)", readme):
        assert (REPO / picture).is_file()
    book: dict[str, object] = {}
    exec((copy / "docs" / "conf.py").read_text(encoding="utf-8"), book)
    assert book["html_theme_options"]["repository_url"] == "https://github.com/ann/course"  # type: ignore[index]


@pytest.mark.parametrize("name", ["", "ann", "ann/course/x", "https://github.com/ann/course"])
def test_another_form_is_refused_and_nothing_written(copy: Path, name: str) -> None:
    before = (copy / "README.md").read_bytes()
    with pytest.raises(ValueError, match="is not owner/name"):
        publish.publish(name, copy)
    assert (copy / "README.md").read_bytes() == before


def set_up(path: Path) -> dict[str, object]:
    """The notebook's first code cell."""
    return next(c for c in load(path)["cells"] if c["cell_type"] == "code")


def source_of(path: Path) -> str:
    found = re.search(r'SOURCE = "(.*)"', text_of(set_up(path)["source"]))  # type: ignore[arg-type]
    assert found
    return found[1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name[:2])
def test_the_set_up_cell_fetches_what_is_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_of(set_up(path)["source"])  # type: ignore[arg-type]
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        asked.append(command)
        if command[0] == "git":
            (tmp_path / "course").mkdir()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(text, {})  # in a clone
    assert "your machine, profile quick" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        patch.setattr(subprocess, "run", run)
        with pytest.raises(ModuleNotFoundError, match="clone the course"):
            exec(text.replace(source_of(path), ""), {})
        known = re.sub(r'SOURCE = ".*"', 'SOURCE = "https://github.com/ann/course"', text)
        for _ in range(2):  # the second time after an installation that failed
            exec(known, {})
    assert [command[0] for command in asked] == ["git", sys.executable, sys.executable]
    assert asked[0][-2:] == ["https://github.com/ann/course", "course"]
    assert "--editable" in asked[1] and "course" in sys.path


@pytest.mark.parametrize(
    ("profile", "says"), [("quick", "mean little"), ("standard", "3 min"), ("full", "GPU")]
)
def test_where_it_runs_is_told(
    profile: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDLIB_PROFILE", profile)
    monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    course.here("04")
    out = capsys.readouterr().out
    assert out.startswith(f"Binder, profile {profile}, device ") and says in out
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())  # type: ignore[arg-type]
    course.here("04")
    assert capsys.readouterr().out.startswith("Colab, ")


def test_the_minutes_told_are_the_readme_s() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| \[.*\| ([\d.]+) \|$", readme, re.MULTILINE)
    assert {number: float(minutes) for number, minutes in rows} == course.MINUTES
