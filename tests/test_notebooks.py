"""The stored notebooks are clean, and they run: each by nbval in the quick profile, in order.

All share one temporary data folder, so what notebook 02 trains, 03 looks at. A cell marked
`# NBVAL_CHECK_OUTPUT` must print what is stored; any cell may hold assertions.
"""

import base64
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import notebook_checks as checks

NOTEBOOKS = sorted((checks.REPO / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((checks.REPO / "notebooks" / "solutions").glob("*.ipynb"))
EVERY = [pytest.param(p, id=p.relative_to(checks.REPO).as_posix()) for p in NOTEBOOKS + SOLUTIONS]
# seconds; a hanging cell fails as itself long before its notebook does
CELL_TIMEOUT, NOTEBOOK_TIMEOUT = 300, 900
# what differs from run to run in a marked output without being wrong
SANITIZE = r"""
[durations]
regex: \b\d+([.:]\d+)? ?(ms|s|min|seconds|minutes)\b
replace: DURATION
[addresses]
regex: \b0x[0-9a-fA-F]{6,}
replace: ADDRESS
"""


def test_the_core_notebooks_exist() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == sorted(set(numbers)), "two notebooks have one number"
    assert {"01", "02", "03", "04", "05"} <= set(numbers)


def test_solutions_belong_to_notebooks() -> None:
    known = {path.name[:2] for path in NOTEBOOKS}
    assert [path.name for path in SOLUTIONS if path.name[:2] not in known] == []


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", EVERY)
def test_stored(path: Path, check: checks.Check) -> None:
    assert check(checks.load(path), path) == []


# ---------------------------------------------------------------------------- execution by nbval


class Run:
    """Executes notebooks by nbval, in a process and a Jupyter home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sanitize.cfg").write_text(SANITIZE)
        (folder / "pytest.ini").write_text("[pytest]\n")  # not the course's own settings
        drop = ("MPLBACKEND", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")  # the kernel has its own
        self.env = {name: value for name, value in os.environ.items() if name not in drop} | {
            "VIDLIB_PROFILE": "quick",
            "VIDLIB_DATA": str(folder / "data"),
            # nothing of the learner's Jupyter and IPython: kernels, configuration, start-up files
            "JUPYTER_PLATFORM_DIRS": "1",
            "JUPYTER_NO_CONFIG": "1",
            "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
            "IPYTHONDIR": str(folder / "ipython"),
            "MPLCONFIGDIR": str(folder / "matplotlib"),
        }

    def __call__(self, notebook: Path) -> tuple[bool, str]:
        """(passed, what nbval printed: the failing cell, its source and traceback)."""
        command = [sys.executable, "-m", "pytest", "--nbval-lax", str(notebook)]
        command += ["-c", str(self.folder / "pytest.ini"), "--rootdir", str(notebook.parent)]
        command += ["--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"]
        command += ["--nbval-sanitize-with", str(self.folder / "sanitize.cfg")]
        command += ["-p", "no:cacheprovider", "-q", "--color=no", "--maxfail=1", "--no-header"]
        try:
            done = subprocess.run(
                command, env=self.env, cwd=notebook.parent, timeout=NOTEBOOK_TIMEOUT,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            printed = (error.stdout or b"").decode(errors="replace")
            return False, f"{printed}\n{notebook.name}: not done after {NOTEBOOK_TIMEOUT} s"
        return done.returncode == 0, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("notebooks"))


@pytest.mark.parametrize("path", EVERY)
def test_runs(path: Path, run: Run) -> None:
    before = set(path.parent.iterdir())
    passed, printed = run(path)
    if not passed:
        pytest.fail(f"{path.name}\n{printed[-8000:]}", pytrace=False)
    left = {p for p in set(path.parent.iterdir()) - before if not p.name.startswith((".", "__"))}
    assert not left, "a notebook writes into the data folder, not beside itself"


# ------------------------------------------------------------- the tests of the tests: they bite

PIXEL = base64.b64encode(b"a picture").decode()


def markdown(source: str, **more: Any) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source, **more}


def code(source: str, count: int | None, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": source, "execution_count": count,
            "outputs": list(outputs)}  # fmt: skip


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data: Any) -> dict[str, Any]:
    kinds = {"png": "image/png", "html": "text/html", "view": checks.VIEW}
    data = {kinds[name]: value for name, value in data.items()}
    return {"output_type": "display_data", "data": data, "metadata": {}}


FIGURE = shown(png=PIXEL, html=f'<img alt="a red square" src="data:image/png;base64,{PIXEL}">')


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = tuple({"id": f"cell-{k}", **copy.deepcopy(cell)} for k, cell in enumerate(cells))
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel},
            "cells": list(cells)}  # fmt: skip


def good() -> dict[str, Any]:
    return notebook(
        markdown(
            "# Title\n\nSee [the end](#The-end!), [itself](good.ipynb) and "
            "[a page](https://example.org/home/x).\n```\n# no title\n```\n"
            "Write `[x](nowhere)` or `/tmp/x`."
        ),  # fmt: skip
        code("# NBVAL_CHECK_OUTPUT\nprint(1 + 1)", 1, stream("2\n")),
        code("from src/work import x", 2, FIGURE),
        code("", None),
        code("slider", 3, shown(view={"model_id": "m1"}), FIGURE),
        markdown("## The end!\n\n![a still](attachment:a.png)", attachments={"a.png": {}}),
    )


def write(nb: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(nb), encoding="utf-8")
    return path


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_a_good_notebook_passes(check: checks.Check, tmp_path: Path) -> None:
    nb = good()
    nb["cells"][0]["source"] = nb["cells"][0]["source"].replace("or `/tmp/x`", "it")
    assert check(nb, write(nb, tmp_path / "good.ipynb")) == []
    assert check is not checks.answers_folded or check(nb, tmp_path / "01_solutions.ipynb") == []


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value into the good notebook, at a path of keys."""

    def change(nb: dict[str, Any]) -> None:
        place: Any = nb
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return change


def _text(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda nb: nb["cells"].append(markdown(text))


def _output(*outputs: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return _set("cells", 2, "outputs", to=list(outputs))


def _state(state: Any) -> Callable[[dict[str, Any]], None]:
    return _set("metadata", "widgets", to={checks.STATE: state})


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
BROKEN = [
    (checks.valid_format, _set("cells", 1, "outputs", to="2")),
    (checks.valid_format, _set("cells", 1, "id", to="cell-0")),
    (checks.one_title, _text("# A second title")),
    (checks.one_title, _text("A second title\n===")),
    (checks.one_title, _text("<h1>A second title</h1>")),
    (checks.one_title, _set("cells", 0, "source", to="## No title")),
    (checks.one_title, lambda nb: nb["cells"].reverse()),
    (checks.executed_in_order, _set("cells", 2, "execution_count", to=3)),
    (checks.executed_in_order, _set("cells", 1, "execution_count", to=None)),
    (checks.executed_in_order, lambda nb: nb["cells"].insert(1, nb["cells"].pop(2))),
    (checks.executed_in_order, _output({"output_type": "execute_result", "data": {},
                                        "metadata": {}, "execution_count": 7})),
    (checks.executed_in_order, _set("cells", to=[markdown("# Title")])),
    (checks.no_errors, _output(ERROR)),
    (checks.no_errors, _output(stream("a warning", "stderr"))),
    (checks.no_machine_paths, _output(stream("saved /root/x.npz"))),
    (checks.no_machine_paths, _output(stream("saved '/home/anna/x.npz'"))),
    (checks.no_machine_paths, _output(stream("in /Users/anna/course"))),
    (checks.no_machine_paths, _output(stream("read ../../../anna/clip.webm"))),
    (checks.no_machine_paths, _output(stream("in C:\\Users\\anna"))),
    (checks.no_machine_paths, _output(stream("file:///work/x"))),
    (checks.no_machine_paths, _output(stream(["a line\n", "PosixPath('/tmp/x/y')\n"]))),
    (checks.no_machine_paths, _output(stream("python3.11/site-packages/torch"))),
    (checks.no_machine_paths, _output(stream(f"{checks.REPO}/data"))),
    (checks.no_machine_paths, _output(shown(html="<p>/tmp/ipykernel_12/34.py</p>"))),
    (checks.no_machine_paths, _set("metadata", "papermill", to={"input": "/home/anna/a.ipynb"})),
    (checks.no_machine_paths, _set("cells", 1, "source", to="open('/home/anna/a.mp4')")),
    (checks.figures_described, _output(shown(png=PIXEL))),
    (checks.figures_described, _output(shown(png=PIXEL, html="<p>a figure</p>"))),
    (checks.figures_described, _output(shown(png=PIXEL, html="<img alt='' src='data:,'>"))),
    (checks.figures_described, _output(shown(png=PIXEL, html="<img alt='a'><img>"))),
    (checks.figures_described, _output(shown(html="<img alt='a square' src='data:,'>"))),
    (checks.figures_described, _output(shown(html="<img src='data:,'>"))),
    (checks.figures_described, _text("![](attachment:a.png)")),
    (checks.figures_described, _text("<img src='https://example.org/a.png'>")),
    (checks.widgets_whole, _set("metadata", "widgets", to={})),
    (checks.widgets_whole, _state({"version_major": 2})),
    (checks.widgets_whole, _state({"state": {"another": {}}})),
    (checks.widgets_whole, _set("cells", 4, "outputs", to=[shown(view={"model_id": "m1"})])),
    (checks.widgets_whole, lambda nb: (_state({"state": {"m1": {}}})(nb), nb["cells"].pop(4))),
    (checks.links_resolve, _text("[next](02_gone.ipynb)")),
    (checks.links_resolve, _text("[next](<02 gone.ipynb> 'title')")),
    (checks.links_resolve, _text("[next][there]\n\n[there]: gone.md")),
    (checks.links_resolve, _text("<a href='gone.md'>next</a>")),
    (checks.links_resolve, _text("<img alt='a' src='gone.png'>")),
    (checks.links_resolve, _text("![a](gone.png)")),
    (checks.links_resolve, _text("![a](attachment:gone.png)")),
    (checks.links_resolve, _text("[up](#No-such-heading)")),
    (checks.links_resolve, _text("[up](good.ipynb#No-such-heading)")),
    (checks.links_resolve, _text("[out](../../x)")),
    (checks.links_resolve, _text("[out](/etc/hosts)")),
    (checks.links_resolve, _output(shown(html="<video src='gone.webm'></video>"))),
    (checks.small_enough, _output(stream("x" * checks.MAX_BYTES))),
    (checks.kernel_declared, _set("metadata", "kernelspec", "name", to="my-env")),
    (checks.kernel_declared, _set("metadata", to={})),
    (checks.answers_folded, _set("cells", 2, "source", to="assert check_loss(my_loss)")),
    (checks.answers_folded, lambda nb: (
        _set("cells", 2, "source", to="assert check_loss(my_loss)")(nb),
        _set("cells", 2, "metadata", to={"jupyter": {"source_hidden": True}})(nb))),
]  # fmt: skip


@pytest.mark.parametrize(("check", "damage"), BROKEN, ids=[check.__name__ for check, _ in BROKEN])
def test_a_broken_notebook_fails(
    check: checks.Check, damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    nb = good()
    damage(nb)
    name = "01_solutions.ipynb" if check is checks.answers_folded else "good.ipynb"
    problems = check(nb, write(nb, tmp_path / name))
    assert problems
    assert all(isinstance(problem, str) and "\n" not in problem for problem in problems)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in BROKEN} == set(checks.ALL)


def test_pictures_are_not_searched_for_paths(tmp_path: Path) -> None:
    nb = good()
    hidden = shown(png="A/tmp/B", html="<img alt='a' src='data:image/png;base64,A+/tmp/B='>")
    nb["cells"] = [code("", 1, hidden)]
    assert checks.no_machine_paths(nb, tmp_path) == []


def test_widget_state_that_is_whole_passes(tmp_path: Path) -> None:
    nb = good()
    _state({"version_major": 2, "version_minor": 0, "state": {"m1": {}}})(nb)
    assert checks.widgets_whole(nb, tmp_path) == []


MARK = "# NBVAL_CHECK_OUTPUT\n"
RIGHT = [
    code("import os, sys", 1),
    code(MARK + "print(1 + 1, 'in 3.25 s')", 2, stream("2 in 0.1 s\n")),  # the duration may differ
    code("print(1 + 1)", 3, stream("unmarked, so not compared\n")),
    code(f"assert sys.executable == {sys.executable!r}", 4),
    code("assert os.environ['VIDLIB_PROFILE'] == 'quick'", 5),
    code("assert 'inline' in __import__('matplotlib').get_backend()", 6),
]


def test_a_right_notebook_runs(run: Run, tmp_path: Path) -> None:
    passed, printed = run(write(notebook(*RIGHT), tmp_path / "right.ipynb"))
    assert passed, printed


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (code(MARK + "print(1 + 1)", 1, stream("3\n")), "Cell outputs differ"),
        (code("accuracy = 0.2\nassert accuracy > 0.5, 'too low'", 1), "too low"),
        (code("encode(frames)", 1), "NameError"),
    ],
    ids=["marked-output", "assertion", "error"],
)
def test_a_wrong_statement_fails(wrong: Any, says: str, run: Run, tmp_path: Path) -> None:
    passed, printed = run(write(notebook(wrong), tmp_path / "wrong.ipynb"))
    assert not passed
    assert says in printed, printed
    assert wrong["source"].splitlines()[-1] in printed  # the reader is shown the cell
