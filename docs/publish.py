"""Write where the course is published into it: python docs/publish.py owner/name

The notebooks' first code cell then knows where to fetch the course from (Colab), the README gets
two badges a notebook, and the book buttons of the same use. Running it again moves the course.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLAB = "https://colab.research.google.com/github/{name}/blob/main/{path}"
BINDER = "https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{path}"
BEGIN, END = "<!-- badges: docs/publish.py -->", "<!-- end of badges -->"


def badges(name: str, notebooks: list[str]) -> str:
    """A list: each notebook's number and its two badges."""
    lines = []
    for path in notebooks:
        places = {"Colab": COLAB, "Binder": BINDER}
        links = [
            f"[![Open notebook {Path(path).name[:2]} in {place}](docs/{place.lower()}.svg)]"
            f"({link.format(name=name, path=path)})"
            for place, link in places.items()
        ]
        lines.append(f"- {Path(path).name[:2]} {' '.join(links)}")
    return "\n".join(lines)


def publish(name: str, root: Path = ROOT) -> None:
    """Write `name` (owner/name on GitHub) into the files under `root`, or raise ValueError."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"'{name}' is not owner/name")
    source = f"https://github.com/{name}"
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    changes = [(path, r'(SOURCE = \\")[^"\\]*', rf"\g<1>{source}") for path in notebooks]
    changes += [(root / "docs/conf.py", r'(repository = ")[^"]*', rf"\g<1>{source}")]
    shown = badges(name, [path.relative_to(root).as_posix() for path in notebooks])
    block = f"{BEGIN}\n{shown}\n{END}".replace("\\", r"\\")
    changes += [(root / "README.md", f"{BEGIN}.*{END}", block)]
    for path, pattern, text in changes:
        before = path.read_text(encoding="utf-8")
        after, found = re.subn(pattern, text, before, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{path}: {found} places to write to, not one")
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/publish.py owner/name")
    try:
        publish(sys.argv[1])
    except ValueError as error:
        sys.exit(f"publish: {error}")
