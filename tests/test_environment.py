"""pyproject.toml, environment.yml, Makefile, .ci/run and .gitignore agree and do what they say."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import vidlib
from conftest import moving_square
from vidlib import doctor, video
from vidlib.settings import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
TESTS = EXTRAS["test"]


def bounds(lines: list[str]) -> dict[str, str]:
    return {r.name: str(r.specifier) for r in map(Requirement, lines)}


def test_conda_and_pip_have_the_same_packages_and_bounds() -> None:
    (pip,) = (entry["pip"] for entry in CONDA if isinstance(entry, dict))
    conda = [entry for entry in CONDA if isinstance(entry, str)]
    assert conda[:2] == ["python=3.11", "pip"]
    assert pip[-1] == "-e ."
    listed = conda[2:] + pip[:-1]
    assert bounds(listed) == bounds(PROJECT["dependencies"] + TESTS)
    assert len(listed) == len(bounds(listed)), "a package is listed twice"


def test_the_tests_install_every_extra() -> None:
    assert {*EXTRAS["data"], *EXTRAS["hub"]} <= set(TESTS)


def test_every_package_has_a_lower_bound_that_is_installed() -> None:
    for requirement in map(Requirement, PROJECT["dependencies"] + TESTS):
        assert any(part.operator in (">=", "==") for part in requirement.specifier), requirement
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_a_bound_above_has_its_reason_above_it() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    lines, build = text.splitlines(), tomllib.loads(text)["build-system"]["requires"]
    for listed in (build, PROJECT["dependencies"], *EXTRAS.values()):
        for each in listed:
            if all(part.operator == ">=" for part in Requirement(each).specifier):
                continue
            (at,) = (k for k, line in enumerate(lines) if f'"{each}"' in line)
            assert lines[at - 1].lstrip().startswith("# "), f"{each}: why no newer one?"


def test_the_project_names_what_exists() -> None:
    module, _, function = PROJECT["scripts"]["vidlib"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert PROJECT["version"] == vidlib.__version__
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, doctor.MIN_PYTHON))
    assert "the vidlib authors" in (REPO / "LICENSE").read_text(encoding="utf-8")


# modules under another name than their package's, and those that a listed package brings along
PACKAGE_OF = {"cv2": "opencv-python", "sklearn": "scikit-learn", "scipy": "scikit-learn",
              "IPython": "ipywidgets",
              "nbformat": "nbval", "yaml": "jupyterlab", "packaging": "pytest",
              "jupyter_client": "jupyterlab", "PIL": "matplotlib",
              "traitlets": "ipywidgets", "psutil": "jupyterlab", "filelock": "torch",
              "requests": "pooch"}  # fmt: skip


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def sources(folder: str) -> str:
    """All Python of a folder: modules, and the code cells of notebooks, their magics translated."""
    texts = [path.read_text(encoding="utf-8") for path in (REPO / folder).glob("*.py")]
    plain = TransformerManager()  # IPython's own: `x = !command` too is valid Python after it
    for path in (REPO / folder).rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                texts.append(plain.transform_cell("".join(cell["source"])))
    return "\n".join(text.replace("from __future__ import annotations", "") for text in texts)


@pytest.mark.parametrize("folder", ["vidlib", "notebooks", "tests", "benchmarks"])
def test_every_import_is_a_listed_package(folder: str) -> None:
    extra = {"vidlib": EXTRAS["data"] + EXTRAS["hub"], "benchmarks": TESTS + EXTRAS["bench"]}
    extra |= {"tests": TESTS, "notebooks": TESTS}  # a notebook asks whether it is there
    known = set(bounds(PROJECT["dependencies"] + extra.get(folder, [])))
    here = {
        "vidlib",
        *(p.stem for own in ("tests", "benchmarks") for p in (REPO / own).glob("*.py")),
    }
    foreign = imported(sources(folder)) - set(sys.stdlib_module_names) - here
    assert {name for name in foreign if PACKAGE_OF.get(name, name) not in known} == set()


# a room imports from its own floor and those below it
FLOORS = (
    "settings motion video fetching distributed",
    "studio sampling catalog datasets augment encoders simsiam temporal probes checkpoints "
    "tubelets published videomae",
    "loop features pretraining training endtoend evaluation predict figures exercises "
    "videomae_loops explain",
    "cli widget course doctor",
)


def test_rooms_import_only_from_floors_below() -> None:
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
    rooms = {p.stem: p.read_text(encoding="utf-8") for p in (REPO / "vidlib").glob("[a-z]*.py")}
    assert rooms.keys() == floor.keys()
    for room, source in rooms.items():
        wanted = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.level or node.module == "vidlib"):
                wanted |= (
                    {node.module}
                    if node.module not in (None, "vidlib")
                    else {alias.name for alias in node.names}
                )
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vidlib."):
                wanted.add(node.module.partition(".")[2])
        above = {w for w in wanted if floor.get(w, 0) > floor[room]}
        assert not above, f"{room} imports {above} from a floor above it"
    assert "torch" not in imported(rooms["video"])  # frames are arrays there
    assert not imported(rooms["figures"]) & {"torch", "sklearn"}  # a figure never trains


def test_ruff_reads_notebooks_by_the_same_rules(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [
        cell | {"source": s}
        for s in ("x = 1\nx", "x += 1\nx", "import json\n\njson.dumps(x)", "undefined")
    ]
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps(book))
    config = f"--config={REPO / 'pyproject.toml'}"
    command = [sys.executable, "-m", "ruff", "check", config, "--no-cache"]
    found = subprocess.run(
        [*command, "--output-format=json", path], capture_output=True, text=True
    ).stdout
    assert [each["code"] for each in json.loads(found)] == ["F821"]


# every Python of a run, workers too, imports this: whom it would ask is written down, and refused
WATCH = """
import os, sys
NAMES = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0,
         "socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
def watch(event, args):
    if event not in NAMES:
        return
    where = args[NAMES[event]]
    if isinstance(where, tuple):
        where = where[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        return  # a socket file, or a pair that is connected already
    if where not in ("127.0.0.1", "localhost", "::1", None):
        with open(os.environ["WATCHED"], "a") as file:
            print(event, where, " ".join(sys.argv), file=file)
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""
RUN = """
import importlib, pkgutil, sys
import vidlib
from vidlib.cli import main
for room in pkgutil.iter_modules(vidlib.__path__):
    importlib.import_module(f"vidlib.{room.name}")
for command in sys.argv[1:]:
    assert main(command.split()) in (0, 1), command
assert vidlib.PredictionPanel()
"""


def test_an_ordinary_run_asks_nobody_on_the_network(small_video: Path, tmp_path: Path) -> None:
    """Neither vidlib nor what it imports: no telemetry, no look for a newer version."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "watched"
    path = os.pathsep.join((str(tmp_path), str(REPO), os.environ.get("PYTHONPATH", "")))
    env = os.environ | {"VIDLIB_DATA": str(tmp_path), "WATCHED": str(watched), "PYTHONPATH": path}
    for k, name in enumerate(("waving/a", "waving/b", "clapping/c", "clapping/d")):
        to = tmp_path / "raw_videos" / "train" / f"{name}.webm"
        to.parent.mkdir(parents=True, exist_ok=True)
        video.write_video(to, moving_square(1 + k / 5), 25)
    commands = ["doctor", "inspect", "pretrain --steps=2 --batch-clips=2 --size=32",
                "embed", "train --steps=2", "train --finetune=1", "evaluate",
                f"predict --json {small_video}"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", RUN, *commands], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not watched.exists(), watched.read_text()
    ask = "import urllib.request; urllib.request.urlopen('http://example.invalid')"
    subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True)
    assert "example.invalid" in watched.read_text(), "the watch itself works"


# ------------------------------------------------------------------------------------- Makefile

needs_make = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("bash")), reason="needs make and bash"
)
FAKE_PYTHON = """#!/bin/sh
# stands for Python {version}: answers the version question, "builds" .venv with another of its kind
# as ruff, writes down the rest
case "$*" in
  "-c"*) [ {new_enough} = 1 ];;
  "--version") echo "Python {version}";;
  "-m venv"*) mkdir -p "$4/bin"; echo "built by {version}" >> log
    cp "$0" "$4/bin/python"; cp "$0" "$4/bin/ruff";;
  *) echo "$VIDLIB_PROFILE: $*" >> log; [ ! -e broken ] || {{ echo "ERROR: no network"; exit 1; }};;
esac
"""


class Room:
    """A copy of the Makefile in an empty folder, with fake Pythons on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "a course", folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        for tool in ("bash", "sh", "make", "awk", "cat", "cp", "cut", "find", "grep", "mkdir",
                     "rm", "sed", "tail", "tee", "env", "dirname"):  # fmt: skip
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name in ("Makefile", "pyproject.toml", ".ci/run"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(REPO / name, self.folder / name)

    def python(self, name: str, version: str, new_enough: bool = True) -> None:
        path = self.bin / name
        path.write_text(FAKE_PYTHON.format(version=version, new_enough=int(new_enough)))
        path.chmod(0o755)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env={"PATH": str(self.bin), **env},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", *arguments, **env)

    @property
    def log(self) -> list[str]:
        """What the fake Pythons were asked since the last time."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


INSTALL = ": -m pip install --progress-bar off -e .[test]"


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@needs_make
def test_make_builds_once_and_again_when_needed(room: Room) -> None:
    room.python("python3.11", "3.11.9")
    course = room.make("course", "PROFILE=quick")
    assert course.returncode == 0, course.stdout
    assert room.log == ["built by 3.11.9", INSTALL, "quick: -m vidlib course"]
    assert room.make("course").returncode == 0
    assert room.log == ["standard: -m vidlib course"]
    room.make("course", VIDLIB_PROFILE="full")
    assert room.log == ["full: -m vidlib course"]
    later = (room.folder / ".venv/.installed").stat().st_mtime + 10
    os.utime(room.folder / "pyproject.toml", (later, later))
    room.make("venv")
    assert room.log == [INSTALL], "a changed pyproject.toml installs again"
    moved = room.folder.with_name("moved")
    shutil.copytree(room.folder, moved, symlinks=True)
    room.folder = moved
    room.make("venv")
    assert room.log == ["built by 3.11.9", INSTALL], "a copied folder gets a .venv of its own"


@needs_make
def test_make_finds_a_python_that_is_new_enough(room: Room) -> None:
    room.python("python3.11", "3.11.0 (a shim that fails)", new_enough=False)
    room.python("python3", "3.13.1")
    room.make("venv")
    assert room.log[0] == "built by 3.13.1"


@needs_make
def test_make_without_a_python_says_so(room: Room) -> None:
    room.python("python3", "3.9.2", new_enough=False)
    for arguments in (["course"], ["course", "PYTHON=python3"]):
        answer = room.make(*arguments)
        assert answer.returncode != 0
        assert "No Python 3.11 or newer" in answer.stdout
        assert room.log == [] and not (room.folder / ".venv").exists()


@needs_make
def test_a_broken_installation_stops_and_is_tried_again(room: Room) -> None:
    room.python("python3.11", "3.11.9")
    (room.folder / "broken").touch()
    answer = room.make("course")
    assert answer.returncode != 0
    assert "ERROR: no network" in answer.stdout
    assert "vidlib course" not in " ".join(room.log)
    (room.folder / "broken").unlink()
    assert room.make("venv").returncode == 0
    assert room.log == [INSTALL]


@needs_make
def test_make_lowest_takes_every_lower_bound_as_the_version(room: Room) -> None:
    room.python("python3", "3.13.1")
    assert room.make("lowest").returncode != 0, "it takes Python 3.11, or what is named"
    room.python("python3.11", "3.11.9")
    done = room.make("lowest")
    assert done.returncode == 0, done.stdout
    built, install, *tests = room.log
    assert (built, install) == ("built by 3.11.9", f"{INSTALL} -c build/lowest.txt")
    assert tests == [": check .", ": format --check .", "quick: -m pytest --durations=15"]
    assert not (room.folder / ".venv").exists()
    exact = bounds((room.folder / "build" / "lowest.txt").read_text().splitlines())
    for name, bound in bounds(PROJECT["dependencies"] + TESTS).items():
        (low,) = (part.version for part in SpecifierSet(bound) if part.operator in (">=", "=="))
        assert exact[name] == f"=={low}"


@needs_make
def test_make_clean_leaves_what_the_learner_made(room: Room) -> None:
    kept = ["data/raw_videos/train/waving/1.mp4", "data/weights/ssl_feature_extractor.pth",
            "data/weights/shipped/a.pth", "data/results/course.json", "notebooks/mine.ipynb",
            "data/raw_videos/train/__pycache__/odd.mp4"]  # fmt: skip
    gone = [".venv/bin/python", ".venv-lowest/bin/python", "data/cache/frames/a.npy",
            "data/cache/features/a.npz", "vidlib/__pycache__/a.pyc", ".pytest_cache/a",
            ".ruff_cache/a"]  # fmt: skip
    for name in kept + gone:
        (room.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (room.folder / name).touch()
    answer = room.make("clean")
    assert answer.returncode == 0, answer.stdout
    assert [name for name in kept if not (room.folder / name).exists()] == []
    assert [name for name in gone if (room.folder / name).exists()] == []


@needs_make
def test_make_help_lists_the_targets(room: Room) -> None:
    shown = room.make().stdout
    for target in ("course", "test", "lowest", "notebooks", "bench", "soak", "clean", "help"):
        assert re.search(rf"^  make {target} +\w", shown, re.MULTILINE), shown


@needs_make
def test_ci_runs_make_test_from_anywhere(room: Room) -> None:
    (room.folder / "Makefile").write_text("test:\n\t@echo tested > here; exit $(CODE)\n")
    script = str(room.folder / ".ci/run")
    for code in (0, 2):
        done = subprocess.run([script], cwd="/", env={"PATH": str(room.bin), "CODE": str(code)})
        assert (done.returncode == 0) == (code == 0)
    assert (room.folder / "here").read_text() == "tested\n"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_ignores_the_learners_files_and_no_others(tmp_path: Path) -> None:
    shutil.copy2(REPO / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    out = ["data/raw_videos/train/waving/1.mp4", "data/raw_videos/clips.csv", ".venv/bin/python",
           ".venv-lowest/bin/python",
           "data/weights/ssl_feature_extractor.pth", "data/cache/frames/a.npy",
           "data/sets/kth/boxing/person01_boxing_d1_uncomp.avi"]  # fmt: skip
    kept = ["data/raw_videos/README.md", "data/weights/README.md", "notebooks/01_a.ipynb",
            "data/weights/shipped/ssl_feature_extractor.pth", "vidlib/video.py"]  # fmt: skip
    found = subprocess.run(
        ["git", "check-ignore", *out, *kept], cwd=tmp_path, capture_output=True, text=True
    ).stdout.splitlines()
    assert sorted(found) == sorted(out)
