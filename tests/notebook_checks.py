"""What a stored notebook must hold, as plain functions: (notebook, its path) -> list of problems.

A notebook is the parsed JSON, so that nothing is tidied before it is looked at. A problem is one
line that names the cell; cells count from 1, as a reader of the page would count them.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat

Notebook = dict[str, Any]
Check = Callable[[Notebook, Path], list[str]]

REPO = Path(__file__).resolve().parents[1]
MAX_BYTES = 3 * 1000**2
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
BASE64 = re.compile(r"data:[\w/+.-]*;base64,[A-Za-z0-9+/=\s]*")
# at the start of an absolute path only: `src/work` and https://a.org/home/ are not machine paths
MACHINE_PATH = re.compile(
    r"(?<![\w.~*$)}\]-])/(?:root|home/\w+|Users/\w+|work|tmp|opt|mnt|private|var/folders)\b[^\s'\"<]*"
    r"|(?:\.\./){3,}\w+"  # climbs out of the course
    r"|\b[A-Za-z]:\\+Users\b|\bsite-packages\b|\bdist-packages\b|\bipykernel_\d+"
)


class _Tags(HTMLParser):
    """The tags of a piece of HTML, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def tags(html: str, *names: str) -> list[dict[str, str]]:
    """Attributes of each tag of these names."""
    return [attributes for tag, attributes in _Tags(html).found if tag in names]


def load(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def text_of(lines: str | list[str]) -> str:
    """Notebooks store texts whole or as lists of lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def cells(nb: Notebook, kind: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number, source, cell) of each cell of a kind."""
    for number, cell in enumerate(nb["cells"], 1):
        if cell["cell_type"] == kind:
            yield number, text_of(cell["source"]), cell


def outputs(nb: Notebook) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, _, cell in cells(nb, "code"):
        for output in cell["outputs"]:
            yield number, output


def prose(source: str) -> str:
    """Markdown without its code: fenced blocks and `spans`."""
    source = re.sub(r"^(```+|~~~+).*?^\1", "", source, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", source)


def headings(nb: Notebook) -> list[tuple[int, int, str]]:
    """(cell, level, text) of every heading: # and underlined ones, and HTML's."""
    found = []
    for number, source, _ in cells(nb, "markdown"):
        text = prose(source)
        for marks, title in re.findall(r"^ {0,3}(#{1,6})[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE):
            found.append((number, len(marks), title))
        for title, line in re.findall(r"^(\S.*)\n(=+|-+)[ \t]*$", text, re.MULTILINE):
            if "|" not in title:  # a table's rule is no underline
                found.append((number, 1 if line[0] == "=" else 2, title))
        for level, title in re.findall(r"<h([1-6])\b[^>]*>(.*?)</h\1>", text, re.DOTALL):
            found.append((number, int(level), title))
    return found


def one_title(nb: Notebook, path: Path) -> list[str]:
    """One H1, in the first cell."""
    titles = [(number, title) for number, level, title in headings(nb) if level == 1]
    if len(titles) != 1:
        return [f"{len(titles)} headings of level 1, not one: {titles}"]
    return [] if titles[0][0] == 1 else [f"the H1 is in cell {titles[0][0]}, not in the first"]


def executed_in_order(nb: Notebook, path: Path) -> list[str]:
    """Execution counts are 1..n: the stored outputs are those of one run from top to bottom."""
    problems = []
    code = [(number, cell) for number, source, cell in cells(nb, "code") if source.strip()]
    for expected, (number, cell) in enumerate(code, 1):
        counts = [o["execution_count"] for o in cell["outputs"] if "execution_count" in o]
        for count in (cell["execution_count"], *counts):
            if count != expected:
                problems.append(f"cell {number} was executed as [{count}], not [{expected}]")
    return problems if code else ["no code cell"]


def no_errors(nb: Notebook, path: Path) -> list[str]:
    """No exception and nothing on stderr (warnings, progress bars in text) is stored."""
    problems = []
    for number, output in outputs(nb):
        if output["output_type"] == "error":
            problems.append(f"cell {number} stored {output['ename']}: {output['evalue'][:80]}")
        elif output.get("name") == "stderr":
            problems.append(f"cell {number} stored stderr: {text_of(output['text']).strip()[:80]}")
    return problems


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, but pictures."""
    if isinstance(value, str):
        yield BASE64.sub("", value)
    elif isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            yield BASE64.sub("", "".join(value))
        else:
            for item in value:
                yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not (key.startswith(("image/", "video/", "audio/")) and "svg" not in key):
                yield from _strings(item)


def no_machine_paths(nb: Notebook, path: Path) -> list[str]:
    """No path that exists on one machine only, in text, outputs or metadata."""
    here = [place for place in {str(Path.home()), str(REPO)} if len(place) > 1]
    problems = []
    places = [(f"cell {number}", cell) for number, cell in enumerate(nb["cells"], 1)]
    for where, value in (*places, ("the notebook's metadata", nb["metadata"])):
        for text in _strings(value):
            found = [match[0] for match in MACHINE_PATH.finditer(text)]
            found += [p for p in here if re.search(rf"(?<![\w.]){re.escape(p)}(?![\w-])", text)]
            problems += [f"{where} holds the machine path {p}" for p in sorted(set(found))]
    return problems


def _described(html: str) -> bool:
    pictures = tags(html, "img")
    return bool(pictures) and all(picture.get("alt", "").strip() for picture in pictures)


def figures_described(nb: Notebook, path: Path) -> list[str]:
    """Every picture has a text: JupyterLab shows the `alt` of HTML, not that of a PNG's metadata,
    so each output figure carries image/png (for pages that strip HTML) and an HTML <img alt>."""
    problems = []
    for number, output in outputs(nb):
        data = output.get("data", {})
        html = text_of(data.get("text/html", ""))
        kinds = [kind for kind in data if kind.startswith("image/")]
        if kinds and not _described(html):
            problems.append(f"cell {number}: {kinds[0]} without an HTML <img> that has alt text")
        elif tags(html, "img") and not _described(html):
            problems.append(f"cell {number}: an HTML <img> without alt text")
        elif tags(html, "img") and not kinds:
            problems.append(f"cell {number}: an HTML <img> without image/png beside it")
    for number, source, _ in cells(nb, "markdown"):
        text = prose(source)
        if re.search(r"!\[\s*\][(\[]", text) or (tags(text, "img") and not _described(text)):
            problems.append(f"cell {number}: a picture in the text without alt text")
    return problems


def widgets_whole(nb: Notebook, path: Path) -> list[str]:
    """Widget metadata has its state (code-hosting pages refuse a notebook without), each view's
    model is in it, and each widget has a still picture in its cell: most pages show no widget."""
    problems, models = [], set()
    if (stored := nb["metadata"].get("widgets")) is not None:
        if not isinstance(stored.get(STATE), dict) or not stored[STATE].get("state"):
            problems.append("the notebook's metadata.widgets has no state: save it without widgets")
        else:
            models = set(stored[STATE]["state"])
    views = [(n, o["data"][VIEW]["model_id"]) for n, o in outputs(nb) if VIEW in o.get("data", {})]
    stills = {
        n for n, o in outputs(nb) if _described(text_of(o.get("data", {}).get("text/html", "")))
    }
    for number, model in views:
        if models and model not in models:
            problems.append(f"cell {number}: the state of its widget is not stored")
        if number not in stills:
            problems.append(f"cell {number}: a widget without a still picture with alt text")
    if models and not views:
        problems.append("widget state is stored, but no cell shows a widget")
    return problems


def _targets(nb: Notebook) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, source, cell in cells(nb, "markdown"):
        text = prose(source)
        inline = re.findall(r"\]\(\s*(?:<([^>\n]+)>|([^)\s]+))", text)
        found = [spaced or plain for spaced, plain in inline]
        found += re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", text, re.MULTILINE)
        found += [a.get("href") or a.get("src", "") for a in tags(text, "a", "img", "video")]
        for target in found:
            if target:
                yield number, target, cell
    for number, output in outputs(nb):
        html = text_of(output.get("data", {}).get("text/html", ""))
        for a in tags(html, "a", "img", "video", "source"):
            if target := a.get("href") or a.get("src", ""):
                yield number, target, output


def _anchor(title: str) -> str:
    """A heading's name in a link; JupyterLab keeps capitals and signs, other pages do not."""
    return re.sub(r"[^\w-]", "", re.sub(r"\s+", "-", title.strip())).lower()


def links_resolve(nb: Notebook, path: Path) -> list[str]:
    """Relative links lead to files of the course, #links to a heading. The network is not asked."""
    problems = []
    for number, target, cell in _targets(nb):
        if re.match(r"(https?|mailto|data):", target):
            continue
        if target.startswith("attachment:"):
            if unquote(target.removeprefix("attachment:")) not in cell.get("attachments", {}):
                problems.append(f"cell {number}: {target} is not attached")
            continue
        file, _, fragment = unquote(target).partition("#")
        goal = (path.parent / file).resolve() if file else path.resolve()
        if file and (re.match(r"/|\w+:", file) or not goal.is_relative_to(_root(path))):
            problems.append(f"cell {number}: {target} leads out of the course's folder")
        elif not goal.exists():
            problems.append(f"cell {number}: {target} leads nowhere")
        elif fragment and goal.suffix == ".ipynb":
            there = nb if goal == path.resolve() else load(goal)
            if _anchor(fragment) not in {_anchor(title) for _, _, title in headings(there)}:
                problems.append(f"cell {number}: {target} names no heading")
    return problems


def _root(path: Path) -> Path:
    """The folder that links stay in: the course's, or a lone notebook's own (in the tests)."""
    whole = path.resolve()
    return REPO if whole.is_relative_to(REPO) else whole.parent


def small_enough(nb: Notebook, path: Path) -> list[str]:
    size = os.path.getsize(path)
    return [f"{size / 1e6:.2f} MB, not under {MAX_BYTES / 1e6:.0f}"] if size >= MAX_BYTES else []


def kernel_declared(nb: Notebook, path: Path) -> list[str]:
    """The kernel is `python3`, which every installation has, not one machine's own name."""
    name = nb["metadata"].get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"the kernel is {name!r}, not 'python3'"]


def answers_folded(nb: Notebook, path: Path) -> list[str]:
    """In the solutions, a cell that hands an answer to its check is folded, in JupyterLab and in
    the book."""
    problems = []
    for number, source, cell in cells(nb, "code"):
        if path.name.endswith("_solutions.ipynb") and re.search(
            r"^assert check_\w+\(", source, re.M
        ):
            hidden = cell["metadata"].get("jupyter", {}).get("source_hidden")
            if not hidden or "hide-input" not in cell["metadata"].get("tags", []):
                problems.append(f"cell {number}: an answer that is not folded")
    return problems


def valid_format(nb: Notebook, path: Path) -> list[str]:
    """The file is what the notebook format says, so that every tool opens it."""
    problems = [error.message[:120] for error in nbformat.validator.iter_validate(nb)]
    names = [cell["id"] for cell in nb["cells"] if "id" in cell]
    return problems + (["two cells have one id"] if len(set(names)) < len(names) else [])


ALL: tuple[Check, ...] = (
    valid_format,
    one_title,
    executed_in_order,
    no_errors,
    no_machine_paths,
    figures_described,
    widgets_whole,
    links_resolve,
    small_enough,
    kernel_declared,
    answers_folded,
)
