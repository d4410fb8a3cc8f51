"""The course as a book: `make book` builds build/book from README, teaching page and notebooks.

The notebooks are shown as they are stored; nothing is run. `make` copies the pages together before.
"""

from typing import Any

project = "Video action recognition, from pixels to predictions"
author = "the vidlib authors"
repository = ""  # docs/publish.py writes it
extensions = ["myst_nb"]
root_doc = "index"
exclude_patterns = ["docs/panel.ipynb"]  # the page of `make demo`
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
html_theme = "sphinx_book_theme"
html_title = "Video action recognition"
html_theme_options: dict[str, Any] = {
    "show_toc_level": 2, "use_download_button": True, "use_fullscreen_button": False,
    "home_page_in_toc": True,
}  # fmt: skip
if repository:
    html_theme_options |= {
        "repository_url": repository, "repository_branch": "main", "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org",
        },
    }  # fmt: skip
html_static_path, html_css_files = ["_static"], ["book.css"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_show_sphinx = False

CONTENTS = """
```{toctree}
:hidden:
:maxdepth: 1
:caption: The course
:glob:

notebooks/*
```

```{toctree}
:hidden:
:maxdepth: 1
:caption: Solutions
:glob:

notebooks/solutions/*
```

```{toctree}
:hidden:
:maxdepth: 1
:caption: Beside it

docs/teaching
docs/many_machines
benchmarks/README
benchmarks/RESULTS
data/raw_videos/README
```
"""


def fitted(app: Any, name: str, text: list[str]) -> None:
    """The README is the book's first page, under another name."""
    if name == "index":
        text[0] += CONTENTS
    text[0] = text[0].replace("](../README.md)", "](../index.md)")
    text[0] = text[0].replace("](../../README.md)", "](../../index.md)")


def setup(app: Any) -> None:
    app.connect("source-read", fitted)
