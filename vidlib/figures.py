"""Every figure of the course, in one style. Each function returns (Figure, alt text).

The alt text says what is to be seen, with the numbers that matter. Colours are Okabe & Ito's
("Color Universal Design", 2008), safe for colour-blind readers, and never the only sign. pyplot is
left alone: its open figures would be displayed a second time at the end of a notebook's cell.

T frames, H x W pixels, N points or clips, W windows, K actions.
"""

import base64
import functools
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Figured = tuple[Figure, str]
Frames = NDArray[np.uint8]  # (T, H, W, 3), RGB
Records = Sequence[Mapping[str, float]]

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, BLACK)
LINES = ("-", "--", "-.", ":")
MARKERS = "os^DvPX*p"  # 9 of them against 8 colours: 72 different pairs
GREY, LIGHT = "#5F5F5F", "#D9D9D9"
DPI, SHOWN = 140, 100  # drawn finer than shown, so that text is sharp on dense screens
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.labelsize": 10, "legend.fontsize": 9,
    "xtick.labelsize": 9, "ytick.labelsize": 9, "figure.titlesize": 11, "axes.titlesize": 11,
    "figure.titleweight": "bold", "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.axisbelow": True, "grid.color": LIGHT, "lines.linewidth": 1.8, "legend.frameon": False,
    "figure.facecolor": "white", "image.interpolation": "nearest",
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """The course's matplotlib settings, for the length of a `with` block."""
    return matplotlib.rc_context(STYLE)


def _styled(draw: Callable[..., Figured]) -> Callable[..., Figured]:
    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figured:
        with style():
            return draw(*args, **kwargs)

    return wrapped


# --- from a figure to a page ---------------------------------------------------------------------


def to_png(fig: Figure) -> bytes:
    """The figure as PNG; in 256 colours where it is over 100 kB, which shrinks it to a quarter."""
    raw, small = io.BytesIO(), io.BytesIO()
    with style():
        fig.savefig(raw, format="png", dpi=DPI)
    if raw.tell() <= 100_000:
        return raw.getvalue()
    picture = Image.open(raw).convert("RGB")
    # of Pillow's palettes the octree keeps small bright things, a shirt, nearest to their colour;
    # dithering would look smoother and triple the size
    picture = picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette, corner = picture.getpalette() or [], picture.getpixel((0, 0))
    palette[3 * corner : 3 * corner + 3] = [255, 255, 255]  # the octree's white is a little blue
    picture.putpalette(palette)
    picture.save(small, "png", optimize=True)
    return small.getvalue()


def img_tag(data: bytes, alt: str, mime: str = "image/png", width: int | None = None) -> str:
    """An HTML <img> that holds its picture and its alt text; width in CSS pixels."""
    size = f' width="{width}"' if width else ""
    source = base64.b64encode(data).decode()
    style = 'style="max-width: 100%"'
    return f'<img alt="{html.escape(alt)}"{size} {style} src="data:{mime};base64,{source}">'


def figure_tag(fig: Figure, alt: str, png: bytes | None = None) -> str:
    """The figure as an HTML <img>; `png` where it is drawn already."""
    return img_tag(png or to_png(fig), alt, width=round(fig.get_figwidth() * SHOWN))


def show(fig: Figure, alt: str) -> None:
    """Display a figure once, with its alt text, and close it: `show(*confusion(...))`.

    The HTML carries the alt text, which JupyterLab ignores elsewhere; the PNG is for what shows
    no HTML. In a plain script the alt text is printed.
    """
    png = to_png(fig)
    _display(png, figure_tag(fig, alt, png), alt)
    fig.clear()


def _display(png: bytes, tag: str, alt: str) -> None:
    if not InteractiveShell.initialized():
        print(alt)
        return
    data = {"image/png": base64.b64encode(png).decode(), "text/html": tag, "text/plain": alt}
    display(data, raw=True)


def play(
    source: Frames | str | Path, alt: str, fps: float = 12.0, side: int = 240, limit: int = 200_000
) -> None:
    """Show a clip playing: frames at `fps`, or the first 6 s of a video file sampled at `fps`.

    An animated WebP in an <img>: it is stored in the notebook and plays without a kernel; a
    <video> is stripped from code-hosting pages, and a GIF takes ten times the bytes. Beside it a
    still PNG for what shows no HTML. `side` is the longer one in pixels, `limit` in bytes.
    """
    if not isinstance(source, np.ndarray):
        from . import video

        source = video.read_frames(source, end=6.0, fps=fps)[0]
    still = io.BytesIO()
    middle = _resized(source[len(source) // 2][None], side)[0]
    middle.quantize(128, dither=Image.Dither.NONE).save(still, "png", optimize=True)
    moving = to_webp(source, fps, side, limit)
    _display(still.getvalue(), img_tag(moving, alt, "image/webp", middle.width), alt)


def to_webp(frames: Frames, fps: float, side: int = 240, limit: int = 200_000) -> bytes:
    """Frames as an endless animated WebP; quality, then size, fall until `limit` bytes hold it."""
    for quality, share in ((70, 1.0), (45, 1.0), (30, 0.75), (20, 0.5), (10, 0.35)):
        first, *rest = _resized(frames, max(16, round(side * share)))
        out = io.BytesIO()
        options = {"duration": round(1000 / fps), "loop": 0, "quality": quality, "method": 4}
        first.save(out, "webp", save_all=True, append_images=rest, **options)
        if out.tell() <= limit:
            break
    return out.getvalue()


def _resized(frames: Frames, side: int) -> list[Image.Image]:
    height, width = frames.shape[1:3]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return [Image.fromarray(f).resize(size, Image.Resampling.BICUBIC) for f in frames]


# --- helpers -------------------------------------------------------------------------------------


def _grid(rows: int, columns: int, side: float, left: float = 0, above: float = 0) -> Any:
    """A grid of pictures of `side` inches, with room to the left of it and above each."""
    fig = Figure((columns * side + left, rows * (side + above)), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    return fig, fig.subplots(rows, columns, squeeze=False)


def _picture(ax: Axes, frame: NDArray[Any], title: str = "", edge: str | None = None) -> None:
    ax.imshow(frame)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9, fontweight="normal", loc="center", pad=3)
    for spine in ax.spines.values():
        spine.set(visible=edge is not None, color=edge, linewidth=3)


def _evenly(length: int, count: int) -> NDArray[np.intp]:
    return np.linspace(0, length - 1, min(length, count)).round().astype(int)


def _natural(names: Iterable[Any]) -> list[str]:
    """Distinct names in order, numbers in them by value: person 2 before person 10."""
    parts = {str(n): re.split(r"(\d+)", str(n)) for n in names}
    return sorted(parts, key=lambda n: [s.zfill(9) if s.isdigit() else s for s in parts[n]])


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _percent(share: float) -> str:
    """Two digits where there is little: the attention of one frame of a long film."""
    return f"{share:.1%}" if share >= 0.01 or share == 0 else f"{100 * share:.2g}%"


def _ink(colour: str) -> str:
    return "white" if colour in (BLUE, VERMILION, GREEN, BLACK) else "black"


# --- the data (notebook 01) ----------------------------------------------------------------------


@_styled
def contact_sheet(rows: Sequence[tuple[str, Frames]], columns: int = 6, what: str = "") -> Figured:
    """One clip a row: its title and `columns` frames spread evenly over its length. `what` is
    the alt text's beginning where the rows are something else."""
    longest = max(len(line) for title, _ in rows for line in title.split("\n"))
    fig, axes = _grid(len(rows), columns, 1.2, left=0.1 + 0.085 * longest)
    for line, (title, frames) in zip(axes, rows, strict=True):
        for ax in line[len(frames) :]:
            ax.set_axis_off()
        for ax, i in zip(line, _evenly(len(frames), columns), strict=False):
            _picture(ax, frames[i])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=6)
    titles = "; ".join(title.replace("\n", ", ") for title, _ in rows)
    what = what or f"{_number(len(rows), 'clip')}, one a row, each from first to last frame"
    return fig, f"{what}: {titles}."


@_styled
def class_balance(clips: Sequence[Any]) -> Figured:
    """Clips per action and split, of `catalog.Clip`s; those without an action have a bar too."""
    count = Counter((c.action or "(no action)", c.split or "no split") for c in clips)
    actions, splits = _natural(a for a, _ in count), _natural(s for _, s in count)
    fig = Figure((7.5, 1 + 0.32 * len(actions)), layout="constrained")
    ax, left = fig.subplots(), np.zeros(len(actions), int)
    for split, colour in zip(splits, COLOURS, strict=False):
        width = np.array([count[a, split] for a in actions])
        drawn = ax.barh(actions, width, left=left, color=colour, label=split, edgecolor="white")
        wide = width > 0.04 * max(Counter(c.action for c in clips).values())
        text = [str(w) if w and s else "" for w, s in zip(width, wide, strict=True)]
        ax.bar_label(drawn, text, label_type="center", color=_ink(colour), fontsize=9)
        left += width
    ax.invert_yaxis()
    ax.tick_params(left=False)
    ax.set(xlabel="clips", title="Clips per action")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1.03), title="split", alignment="left")
    each = [(a, [f"{count[a, s]} {s}" for s in splits if count[a, s]]) for a in actions]
    told = "; ".join(f"{a}: {', '.join(parts)}" for a, parts in each)
    return fig, f"Bars of clips per action, {len(clips)} in all. {told}."


@_styled
def clip_lengths(lengths_s: ArrayLike, actions: Sequence[str]) -> Figured:
    """A dot a clip: its length in seconds (N,), by action (N,); the line is the median."""
    return _strips(lengths_s, actions, "Clip lengths", "length in seconds", "s")


@_styled
def motion_by_action(energies: ArrayLike, actions: Sequence[str]) -> Figured:
    """A dot a clip: its mean motion energy (N,), by action (N,); the line is the median."""
    label = "mean change of a pixel from frame to frame, of 255"
    return _strips(energies, actions, "Motion by action", label, "grey levels")


def _strips(
    values: ArrayLike, labels: Sequence[str], title: str, xlabel: str, unit: str
) -> Figured:
    x, names, told = np.asarray(values, float), _natural(labels), []
    fig = Figure((7.5, 1 + 0.32 * len(names)), layout="constrained")
    ax, rng = fig.subplots(), np.random.default_rng(0)
    for row, name in enumerate(names):
        mine = x[[str(label) == name for label in labels]]
        middle = float(np.median(mine))
        at = row + rng.uniform(-0.25, 0.25, len(mine))
        ax.scatter(mine, at, s=16, color=SKY, edgecolor=BLUE, linewidth=0.5)
        ax.plot([middle, middle], [row - 0.38, row + 0.38], color=VERMILION, linewidth=2.5)
        told.append(f"{name} {middle:.3g} ({mine.min():.3g} to {mine.max():.3g})")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=xlabel, title=f"{title} (line: median)", ylim=(len(names) - 0.5, -0.5))
    ax.set_xlim(0, max(1.05 * float(x.max()), 1e-3))
    ax.grid(axis="x")
    of = f"a dot for each of {_number(len(x), 'clip')}"
    return fig, f"{title}: {of}. Median (range) in {unit}: {', '.join(told)}."


@_styled
def motion_energy(frames: Frames, times: ArrayLike) -> Figured:
    """Mean absolute change from each frame to the next, over times (T,), under the frames."""
    t = np.asarray(times, float)
    energy = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3))  # (T - 1,)
    fig = Figure((8, 3.3), layout="constrained")
    shown = _evenly(len(frames), 7)
    grid = fig.add_gridspec(2, len(shown), height_ratios=(1, 1.5))
    for k, i in enumerate(shown):
        _picture(fig.add_subplot(grid[0, k]), frames[i], f"{t[i]:.1f} s")
    ax = fig.add_subplot(grid[1, :])
    ax.fill_between(t[1:], energy, color=SKY, alpha=0.5, linewidth=0)
    ax.plot(t[1:], energy, color=BLUE)
    ax.set(xlabel="seconds", ylabel="mean change\nof a pixel, of 255", title="Motion energy")
    ax.set(ylim=(0, None), xlim=(t[0], t[-1]))
    ax.grid(axis="y")
    peak = int(energy.argmax())
    return fig, (
        f"Motion energy of {_number(len(frames), 'frame')}, {t[-1] - t[0]:.1f} s: a pixel changes "
        f"by {energy.mean():.2g} of 255 grey levels on average from frame to frame, most "
        f"({energy[peak]:.2g}) at {t[peak + 1]:.1f} s. Above the curve, frames of the clip."
    )


# --- pre-training and what it learned (notebooks 02, 03) -----------------------------------------


@_styled
def views(view_a: Any, view_b: Any) -> Figured:
    """Two random views of the same N frames, one above the other: (N, 3, H, W) each, arrays or
    tensors, uint8 or float in 0..1 (differences from a median: show 0.5 + x / 2)."""
    fig, axes = _grid(2, len(view_a), min(1.4, 9 / len(view_a)), left=0.3)
    for line, name, batch in zip(axes, ("view 1", "view 2"), (view_a, view_b), strict=True):
        pictures = np.moveaxis(np.asarray(batch), 1, -1)
        if pictures.dtype != np.uint8:
            pictures = np.clip(pictures.astype(np.float32), 0, 1)
        for ax, picture in zip(line, pictures, strict=True):
            _picture(ax, picture)
        line[0].set_ylabel(name)
    return fig, (
        f"{_number(len(view_a), 'frame')} in two random views: view 1 in the upper row, view 2 of "
        "the same frames below; crop, flip and colours differ, the pose is the same."
    )


@_styled
def curves(
    history: Records | Mapping[str, Records],
    keys: Sequence[str] = ("loss", "collapse"),
    title: str = "Training",
) -> Figured:
    """A panel a key over the steps of one run's records, or of several runs' by name. Faint: every
    step; strong: a running mean. The collapse measure has its alarm line at 0.3."""
    runs = history if isinstance(history, Mapping) else {"": history}
    fig = Figure((0.6 + 3.5 * len(keys), 3.2), layout="constrained")
    told = []
    for ax, key in zip(fig.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for i, (name, records) in enumerate(runs.items()):
            rows = [(r.get("step", n + 1), r[key]) for n, r in enumerate(records) if key in r]
            x, y = np.array([r for r in rows if np.isfinite(r[1])]).reshape(-1, 2).T
            if not len(x):
                continue
            width = max(1, len(y) // 25)
            padded = np.pad(y, (width // 2, (width - 1) // 2), "edge")
            mean = np.convolve(padded, np.full(width, 1 / width), "valid")
            look = {"color": COLOURS[i % 8], "marker": "o" if len(x) < 25 else None}
            if width > 1:
                ax.plot(x, y, color=look["color"], alpha=0.25, linewidth=0.8)
            ax.plot(x, mean, LINES[i % 4], label=name, **look)
            span = f"from {y[0]:.3g} to {mean[-1]:.3g} (range {y.min():.3g} to {y.max():.3g})"
            told.append(f"{key}{f' ({name})' if name else ''} {span}")
        ax.set(xlabel="step", title=key)
        ax.grid(axis="y")
        if key == "collapse":
            ax.axhline(0.3, color=VERMILION, linestyle=(0, (2, 1)), linewidth=1.3)
            ax.annotate("collapsed below 0.3", (1, 0.31), xycoords=("axes fraction", "data"),
                        color=VERMILION, ha="right", va="bottom", fontsize=9)  # fmt: skip
            ax.set_ylim(0, max(1.1, ax.get_ylim()[1]))
    fig.suptitle(title, x=0.01, ha="left")
    if len(runs) > 1:
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right center")
    alarm = " A dashed line at 0.3 marks collapse." if "collapse" in keys else ""
    return fig, f"{title}, curves over steps: {'; '.join(told)}.{alarm}"


@_styled
def growth(
    lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]],
    xlabel: str,
    title: str,
    chance: float | None = None,
) -> Figured:
    """Accuracy against what there is more and more of, on a logarithmic axis: for each line
    (x, accuracies of its repetitions); the mean, and their standard deviation as a bar."""
    fig = Figure((6.4, 3.4), layout="constrained")
    ax, told, ticks = fig.subplots(), [], set()
    for i, (name, points) in enumerate(lines.items()):
        x = [float(at) for at, _ in points]
        mean = [float(np.mean(values)) for _, values in points]
        spread = [float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for _, v in points]
        ax.errorbar(x, mean, spread, color=COLOURS[i % 8], marker=MARKERS[i % 9], capsize=3,
                    linestyle=LINES[i % 4], label=name)  # fmt: skip
        ticks.update(x)
        told.append(f"{name} " + ", ".join(
            f"{m:.0%}{f' +- {100 * s:.0f}' if s else ''} at {at:g}"
            for at, m, s in zip(x, mean, spread, strict=True)
        ))  # fmt: skip
    if chance is not None:
        ax.axhline(chance, color=GREY, linestyle=(0, (2, 2)), linewidth=1, label="chance")
    ax.set_xscale("log")
    ax.set_xticks(sorted(ticks), [f"{t:g}" for t in sorted(ticks)])
    ax.minorticks_off()
    ax.set(xlabel=xlabel, ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    ax.grid(axis="y")
    fig.suptitle(title, x=0.01, ha="left")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right center")
    return fig, f"{title}, accuracy against {xlabel}: {'; '.join(told)}."


@_styled
def embeddings(panels: Sequence[tuple[ArrayLike, Sequence[str], str]], columns: int = 2) -> Figured:
    """Maps side by side, each of points (N, 2), their labels (N,) and a title. Colour and marker
    both tell the label; maps beside each other with the same labels share a legend."""
    columns = min(columns, len(panels))
    rows, kinds = -(-len(panels) // columns), [_natural(labels) for _, labels, _ in panels]
    keys = [-(-len(names) // 14) for names in kinds]  # columns of a legend
    fig = Figure((0.5 + 3.5 * columns + 1.2 * max(keys), 3.6 * rows), layout="constrained")
    axes, told = fig.subplots(rows, columns, squeeze=False).ravel(), []
    for k, (ax, (points, labels, title), names) in enumerate(
        zip(axes, panels, kinds, strict=False)
    ):
        at = np.asarray(points, float)
        for i, name in enumerate(names):
            mine = at[[str(label) == name for label in labels]]
            look = {"marker": MARKERS[i % 9], "color": COLOURS[i % 8], "label": name}
            ax.scatter(*mine.T, s=30, alpha=0.9, edgecolor=GREY, linewidth=0.3, **look)
        ax.set(xticks=[], yticks=[], title=title)
        ax.spines[:].set(visible=True, color=LIGHT)
        if (k + 1) % columns == 0 or k + 1 == len(panels) or kinds[k + 1] != names:
            ax.legend(loc="upper left", bbox_to_anchor=(1, 1.03), ncols=keys[k],
                      handletextpad=0.2, columnspacing=0.8, borderpad=0.1)  # fmt: skip
        told.append(
            f"{title}: {_number(len(at), 'point')} of {_number(len(names), 'label')}, "
            f"{_agreement(at, labels):.0%} of nearest neighbours share the label"
        )
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return fig, f"Scatter of points by label. {'; '.join(told)}."


def _agreement(points: NDArray[Any], labels: Sequence[str]) -> float:
    """How often a point's nearest neighbour on the map has its label: how clustered it looks."""
    if len(points) < 2:
        return 1.0
    few = slice(None, None, -(-len(points) // 2000))  # all pairs of more would fill the memory
    points, names = points[few], np.array([str(label) for label in labels])[few]
    distance = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float((names[distance.argmin(1)] == names).mean())


def embedding(points: ArrayLike, labels: Sequence[str], title: str) -> Figured:
    """One map of points (N, 2) by label (N,), such as t-SNE's."""
    return embeddings([(points, labels, title)])


@_styled
def neighbours(
    query_frames: Any, neighbour_frames: Any, titles: Sequence[Sequence[str]]
) -> Figured:
    """Query frames (Q, H, W, 3) and the k nearest of each (Q, k, H, W, 3). `titles` (Q, 1 + k):
    the query's, then its neighbours'; the first line is the label, and equal ones are marked."""
    lines = max(t.count("\n") + 1 for row in titles for t in row)
    columns, same = 1 + len(neighbour_frames[0]), []
    fig, axes = _grid(len(query_frames), columns, 1.3, left=0.25, above=0.07 + 0.15 * lines)
    for line, query, found, names in zip(axes, query_frames, neighbour_frames, titles, strict=True):
        _picture(line[0], query, names[0], BLACK)
        line[0].set_ylabel("query")
        for ax, frame, name in zip(line[1:], found, names[1:], strict=True):
            same.append(name.split("\n")[0] == names[0].split("\n")[0])
            sign, edge = ("✓", BLUE) if same[-1] else ("✗", VERMILION)
            _picture(ax, frame, f"{sign} {name}", edge)
    told = "; ".join(f"{n[0]}: {', '.join(n[1:])}".replace("\n", " ") for n in titles)
    return fig, (
        f"Nearest neighbours as pictures: {sum(same)} of {len(same)} share the query's label (blue "
        f"frame and tick; vermilion frame and cross where not). {told}."
    )


# --- results (notebooks 03, 04) ------------------------------------------------------------------


@_styled
def bars(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    title: str = "Accuracy",
    chance: float | None = None,
    interval: str = "95% interval",
) -> Figured:
    """Shares 0..1 as bars. A row: name, value, and the ends of its interval (or None, None)."""
    fig = Figure((7.5, 1 + 0.36 * len(rows)), layout="constrained")
    ax, told = fig.subplots(), []
    for y, (name, value, low, high) in enumerate(rows):
        ax.barh(y, value, color=SKY, edgecolor=BLUE, height=0.66)
        ends = ""
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], color=BLACK, linewidth=1.6, marker="|", markersize=8)
            ends = f" ({low:.1%} to {high:.1%})"
        ax.text(max(value, high or 0) + 0.015, y, f"{value:.1%}", va="center", fontweight="bold")
        told.append(f"{name} {value:.1%}{ends}")
    with_ends = any(low is not None for _, _, low, _ in rows)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set(xlim=(0, 1.12), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(np.arange(0, 1.01, 0.25), ["0", "25%", "50%", "75%", "100%"])
    ax.set_xlabel(f"accuracy (lines: {interval})" if with_ends else "accuracy")
    ax.set_title(title, pad=6 if chance is None else 18)
    ax.tick_params(left=False)
    if chance is not None:
        ax.axvline(chance, color=VERMILION, linestyle="--", linewidth=1.4)
        ax.text(chance, -0.55, f"chance {chance:.1%}", color=VERMILION, fontsize=9, va="bottom")
        told.append(f"chance is {chance:.1%}")
    return fig, f"{title}, bars{f' with {interval}' if with_ends else ''}: {'; '.join(told)}."


@_styled
def ablation(
    rows: Sequence[tuple[str, Sequence[float], float, float, float | None]],
    than: str,
    title: str,
    machine: str = "",
) -> Figured:
    """What each of several changes is worth. A row: its name, its runs' paired differences to
    `than` (accuracies, -1..1), the ends of their mean's interval, the minutes a run took on
    `machine` (None: no training). A mark a row, the mean; small rings, the runs where there are
    several; a triangle only where the interval leaves out 0."""
    fig = Figure((8.6, 1.3 + 0.3 * len(rows)), layout="constrained")
    timed = any(row[4] is not None for row in rows)
    axes = fig.subplots(1, 1 + timed, squeeze=False, width_ratios=(3, 1)[: 1 + timed])[0]
    ax, told = axes[0], []
    for y, (name, runs, low, high, minutes) in enumerate(rows):
        mean = 100 * float(np.mean(runs))
        look, colour = ("^", BLUE) if low > 0 else ("v", VERMILION) if high < 0 else ("o", GREY)
        ax.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=1.8)
        if len(runs) > 1:
            ax.plot(100 * np.asarray(runs), y + np.linspace(0.2, 0.4, len(runs)), "o",
                    color=colour, markersize=4, markerfacecolor="white")  # fmt: skip
        ax.plot(mean, y, look, color=colour, markersize=8)
        said = f"{name} {mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        if minutes is not None:
            axes[1].barh(y, minutes, color=SKY, height=0.66)
            axes[1].text(minutes, y, f" {minutes:.1f}", va="center", fontsize=9)
            said += f", {minutes:.1f} min"
        told.append(said)
    ax.axvline(0, color=GREY, linestyle="--", linewidth=1.2)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set_xlabel(f"accuracy, points over {than} (lines: 95% interval by person)")
    ax.set_title(title, x=0, ha="left")
    ax.grid(axis="x")
    for each in axes:
        each.set_ylim(len(rows) - 0.4, -0.6)
        each.tick_params(left=False)
    if timed:
        axes[1].set(yticks=[], xlabel="minutes")
        axes[1].set_title(machine, fontweight="normal", fontsize=9)
        axes[1].set_xlim(0, 1.3 * max(row[4] or 0 for row in rows))
    on = f"; minutes on {machine}" if timed and machine else ""
    return fig, (
        f"{title}, points of accuracy over {than} with 95% interval by person{on}: "
        f"{'; '.join(told)}."
    )


@_styled
def confusion(
    matrices: Mapping[str, ArrayLike], actions: Sequence[str], title: str = "Confusion"
) -> Figured:
    """Counts (K, K) by name, side by side: rows are the true actions, columns the predicted; shade
    is the row's share."""
    k, told = len(actions), []
    fig = Figure((1.6 + (0.8 + 0.44 * k) * len(matrices), 1.9 + 0.4 * k), layout="constrained")
    axes = fig.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        m = np.asarray(matrix)
        share = m / np.maximum(m.sum(1, keepdims=True), 1)
        shades = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.argwhere(m):
            ink = "white" if share[i, j] > 0.55 else "black"
            ax.text(j, i, f"{m[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=9)
        right = np.trace(m) / max(m.sum(), 1)
        ax.set_xticks(range(k), actions, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(k), actions)
        ax.set(xlabel="predicted", title=f"{name}: {right:.0%} right")
        ax.tick_params(length=0)
        ax.spines[:].set(visible=True, color=LIGHT)
        wrong = m * (1 - np.eye(k, dtype=int))
        most = [divmod(int(i), k) for i in np.argsort(-wrong, axis=None)[:3]]
        said = [
            f"{actions[i]} taken for {actions[j]} {m[i, j]:.0f}x" for i, j in most if wrong[i, j]
        ]
        each = ", ".join(f"{a} {s:.0%}" for a, s in zip(actions, np.diag(share), strict=True))
        told.append(
            f"{name}, {m.sum():.0f} clips, {right:.1%} right; by action: {each}; most frequent "
            f"mistakes: {'; '.join(said) or 'none'}."
        )
    axes[0].set_ylabel("true")
    bar = fig.colorbar(shades, ax=axes, label="share of the row", shrink=0.8)
    bar.ax.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    bar.outline.set_visible(False)
    fig.suptitle(title, x=0.01, ha="left")
    return fig, f"{title}, confusion matrices. {' '.join(told)}"


@_styled
def reliability(panels: Sequence[tuple[ArrayLike, ArrayLike, str]], bins: int = 5) -> Figured:
    """Are answers as often right as they are probable? A panel: the answers' probabilities (N,),
    whether each was right (N,) bool, a title. A dot a bin of probability, as large as it has
    clips; on the diagonal the two agree."""
    fig = Figure((0.6 + 3.6 * len(panels), 4.0), layout="constrained")
    axes, told = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0], []
    for ax, (p, right, title) in zip(axes, panels, strict=True):
        p, right = np.asarray(p, float), np.asarray(right, bool)
        at = np.minimum((p * bins).astype(int), bins - 1)
        rows = [(p[at == b].mean(), right[at == b].mean(), int((at == b).sum()))
                for b in range(bins) if (at == b).any()]  # fmt: skip
        gap = sum(n * abs(s - r) for s, r, n in rows) / len(p)
        ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
        said, share, counts = map(np.array, zip(*rows, strict=True))
        ax.plot(said, share, color=BLUE, linewidth=1.4)
        ax.scatter(said, share, s=30 + 400 * counts / len(p), color=SKY, edgecolor=BLUE, zorder=3)
        for s, r, n in rows:
            ax.annotate(f"{n}", (s, r), (0, -20), textcoords="offset points", ha="center",
                        fontsize=9)  # fmt: skip
        ax.set(xlim=(0, 1.04), ylim=(-0.16, 1.08), xlabel="probability told")
        ax.set_title(f"{title}\non average {gap:.1%} apart")
        ax.set_xticks(np.arange(0, 1.01, 0.25), ["0", "25%", "50%", "75%", "100%"])
        each = ", ".join(f"told {s:.0%}, right {r:.0%} ({_number(n, 'clip')})" for s, r, n in rows)
        told.append(f"{title}: on average {gap:.1%} apart; {each}")
    axes[0].set_yticks(np.arange(0, 1.01, 0.25), ["0", "25%", "50%", "75%", "100%"])
    axes[0].set_ylabel("share right")
    return fig, f"Reliability, share of right answers by probability. {'. '.join(told)}."


# --- one video (notebooks 04, 05, the panel) -----------------------------------------------------


def top_frames(weights: ArrayLike, count: int = 6) -> list[int]:
    """The frames of greatest weight (T,), in order of time, no two of them nearly the same."""
    w, picked = np.asarray(weights, float), []
    gap = max(1, len(w) // (2 * count))
    for i in np.argsort(-w, kind="stable").tolist():
        if len(picked) < count and all(abs(i - j) >= gap for j in picked):
            picked.append(i)
    return sorted(picked)


@_styled
def attention(
    weights: ArrayLike,
    frames: Frames | Mapping[int, Any],
    times: ArrayLike,
    count: int = 6,
    before: ArrayLike | None = None,
) -> Figured:
    """The Transformer's attention over frames: weights (T,) that sum to 1, at times (T,), under
    the `count` frames that got most. `frames` needs to hold only those of `top_frames`; `before`
    (T,) are the weights of a model that was not trained, drawn as a line."""
    w, t = np.asarray(weights, float), np.asarray(times, float)
    top, equal = top_frames(w, count), 1 / len(w)
    fig = Figure((8, 3.4), layout="constrained")
    grid = fig.add_gridspec(2, len(top), height_ratios=(1.1, 1.3))
    for k, i in enumerate(top):
        title = f"{t[i]:.1f} s: {_percent(w[i])}"
        _picture(fig.add_subplot(grid[0, k]), frames[i], title, VERMILION)
    ax = fig.add_subplot(grid[1, :])
    step = float(np.median(np.diff(t))) if len(t) > 1 else 0.1
    ax.fill_between(t, w, step="mid", color=SKY, linewidth=0)
    ax.bar(t[top], w[top], width=0.8 * step, color=VERMILION, edgecolor=VERMILION, linewidth=1)
    ax.plot(t[top], w[top] + 0.03 * w.max(), "v", color=VERMILION, label="pictured above")
    untrained = ""
    if before is not None:
        b = np.asarray(before, float)
        untrained = f" Before training, shares from {_percent(b.min())} to {_percent(b.max())}."
        ax.step(t, b, where="mid", color="black", linewidth=1.2, label="before training")
    label = f"if all were equal: {_percent(equal)}"
    ax.axhline(equal, color=GREY, linestyle="--", linewidth=1.2, label=label)
    ax.yaxis.set_major_formatter(lambda v, _: _percent(v))
    ax.set(xlabel="seconds", ylabel="share of attention", xlim=(t[0] - step, t[-1] + step))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.96), ncols=3)
    told = ", ".join(f"{t[i]:.2f} s ({_percent(w[i])})" for i in top)
    return fig, (
        f"Attention over {_number(len(w), 'frame')}: bars of each frame's share; an equal share "
        f"would be {_percent(equal)}. Pictured, the frames that counted most: {told}.{untrained}"
    )


def _borders(times: ArrayLike) -> NDArray[np.float64]:
    """Windows' centres (W,), or starts and ends (W, 2), to the W + 1 borders halfway between."""
    t = np.asarray(times, float)
    centre = t if t.ndim == 1 else t.mean(1)
    half = (centre[1] - centre[0]) / 2 if len(centre) > 1 else 0.5
    ends = (max(0, centre[0] - half), centre[-1] + half) if t.ndim == 1 else (t[0, 0], t[-1, 1])
    return np.concatenate([ends[:1], (centre[1:] + centre[:-1]) / 2, ends[1:]])


def _draw_timeline(ax: Axes, times: ArrayLike, p: NDArray[Any], actions: Sequence[str]) -> str:
    """Stack the probabilities (W, K) over time; returns the runs of the top action in words."""
    at, best, told = _borders(times), p.argmax(1), []
    kept = sorted(np.argsort(-p.max(0))[:11])
    kept = [i for i in kept if p[:, i].max() >= 0.1]
    bands = np.concatenate([p[:, kept], 1 - p[:, kept].sum(1, keepdims=True)], 1).clip(0, 1)
    bands = np.concatenate([bands, bands[-1:]]).T  # the last step needs an end
    names, colours = [actions[i] for i in kept], [COLOURS[i % 8] for i in kept]
    areas = ax.stackplot(
        at, bands, step="post", labels=[*names, "others"], colors=[*colours, LIGHT]
    )
    for i, area in enumerate(areas):
        # hatching tells the ninth and later actions from those whose colour they repeat
        area.set(edgecolor="white", linewidth=0.6 if len(p) < 100 else 0)
        area.set_hatch("//" if i < len(kept) and kept[i] >= 8 else None)
    ax.set(xlim=(at[0], at[-1]), ylim=(0, 1), xlabel="seconds", ylabel="probability")
    ax.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
    ax.set_title("Actions over time", pad=20)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.12))
    first = np.flatnonzero(np.diff(best, prepend=-1))
    for a, b in zip(first, [*first[1:], len(best)], strict=True):
        low, high, name = at[a], at[b], actions[best[a]]
        told.append(f"{low:.1f} to {high:.1f} s {name} ({p[a:b, best[a]].mean():.0%})")
        if high - low > 0.014 * (len(name) + 2) * (at[-1] - at[0]):
            ax.text((low + high) / 2, 1.02, name, ha="center", va="bottom", fontsize=9)
    return "; ".join(told[:12]) + (f"; and {len(told) - 12} more" if len(told) > 12 else "")


@_styled
def timeline(times: ArrayLike, probabilities: ArrayLike, actions: Sequence[str]) -> Figured:
    """What the person does when: windows' probabilities (W, K), stacked over time. `times` are
    the windows' centres (W,) or starts and ends (W, 2), seconds. Above: the top action."""
    fig, p = Figure((8, 2.7), layout="constrained"), np.asarray(probabilities, float)
    told = _draw_timeline(fig.subplots(), times, p, actions)
    return fig, f"Timeline of {_number(len(p), 'window')}, stacked probabilities. On top: {told}."


def _draw_topk(ax: Axes, p: NDArray[Any], actions: Sequence[str], k: int) -> str:
    order = np.argsort(-p, kind="stable")[:k]
    names, at = [actions[i] for i in order], range(len(order))
    drawn = ax.barh(at, p[order], color=[BLUE] + [SKY] * (len(order) - 1), height=0.66)
    ax.bar_label(drawn, [f"{p[i]:.1%}" for i in order], padding=4, fontweight="bold")
    ax.set_yticks(at, names)
    ax.set(xlim=(0, 1.18), ylim=(len(order) - 0.5, -0.5), xticks=[], title="Most probable actions")
    ax.tick_params(left=False)
    ax.spines["bottom"].set_visible(False)
    return ", ".join(f"{n} {p[i]:.1%}" for n, i in zip(names, order, strict=True))


@_styled
def topk(probabilities: ArrayLike, actions: Sequence[str], k: int = 5) -> Figured:
    """The k most probable actions of (K,) probabilities, best first."""
    fig = Figure((6, 0.6 + 0.34 * min(k, len(actions))), layout="constrained")
    told = _draw_topk(fig.subplots(), np.asarray(probabilities, float), actions, k)
    return fig, f"Most probable actions: {told}."


@_styled
def panel(frame: NDArray[np.uint8], prediction: Any, title: str, k: int = 5) -> Figured:
    """A still picture of the prediction panel: a frame (H, W, 3) of the video, the top k actions
    and the timeline of a `predict.Prediction`."""
    p = prediction
    fig = Figure((8, 5), layout="constrained")
    grid = fig.add_gridspec(2, 2, height_ratios=(1.35, 1), width_ratios=(1, 1.4))
    _picture(fig.add_subplot(grid[0, 0]), frame, edge=GREY)
    best = _draw_topk(fig.add_subplot(grid[0, 1]), p.probabilities, p.actions, k)
    below = fig.add_subplot(grid[1, :])
    told = _draw_timeline(below, p.window_times, p.window_probabilities, p.actions)
    fig.suptitle(title if len(title) <= 82 else f"{title[:81]}…", x=0.01, ha="left")
    return fig, f"{title}: a frame of the video; most probable {best}; over time: {told}."


# --- maps over space and time --------------------------------------------------------------------


def _heated(frames: Frames, heat: ArrayLike, zero: float) -> tuple[Frames, float]:
    """Frames in grey under their map (T, H, W), and how far from `zero` is full colour: vermilion
    above it, blue below."""
    away = np.asarray(heat, np.float64) - zero
    most = float(np.abs(away).max())
    strength = 0.85 * (np.abs(away) / (most or 1.0))[..., None]
    above, below = (255 * np.array(to_rgb(colour)) for colour in (VERMILION, BLUE))
    grey = (frames @ np.array([0.299, 0.587, 0.114]))[..., None]  # luma, ITU-R BT.601
    colour = np.where(away[..., None] > 0, above, below)
    return np.rint((1 - strength) * grey + strength * colour).astype(np.uint8), most


def _told(heat: NDArray[Any], times: NDArray[Any], zero: float) -> str:
    """A map (T, H, W) in words: how much, when, where."""
    away = heat - zero
    if not np.abs(away).max():
        return f"{zero:.2g} everywhere"
    t, y, x = np.unravel_index(np.abs(away).argmax(), heat.shape)
    row = ("top", "middle", "bottom")[3 * y // heat.shape[1]]
    column = ("left", "centre", "right")[3 * x // heat.shape[2]]
    return (
        f"from {heat.min():.2g} to {heat.max():.2g}, farthest from {zero:.2g} at {times[t]:.1f} s, "
        f"{row} {column}"
    )


def heat(
    frames: Frames, heat: ArrayLike, times: ArrayLike, what: str, zero: float = 0.0
) -> tuple[Frames, str]:
    """A moving picture of a map (T, H, W) over frames (T, H, W, 3) at times (T,), and its alt
    text: `play(*heat(...), side=480)`. Left the frames, right the same in grey under the map:
    vermilion where it is above `zero`, blue below, none where it is `zero`."""
    m, t = np.asarray(heat, float), np.asarray(times, float)
    under, _ = _heated(frames, m, zero)
    gap = np.full((*frames.shape[:2], max(1, frames.shape[2] // 32), 3), 255, np.uint8)
    return np.concatenate([frames, gap, under], axis=2), (
        f"Moving picture of {_number(len(m), 'frame')}: left as they are, right under a map of "
        f"{what}, {_told(m, t, zero)} (vermilion above, blue below)."
    )


@_styled
def heat_strip(
    frames: Frames, heat: ArrayLike, times: ArrayLike, what: str, zero: float = 0.0, count: int = 6
) -> Figured:
    """`heat` standing still: `count` frames spread over the clip above the same frames under the
    map, with its scale, and the map's highest value in each frame."""
    m, t = np.asarray(heat, float), np.asarray(times, float)
    (under, most), shown = _heated(frames, m, zero), _evenly(len(m), count)
    fig = Figure((8, 4.3), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = fig.add_gridspec(3, len(shown), height_ratios=(1, 1, 0.6))
    rows = [[fig.add_subplot(grid[r, k]) for k in range(len(shown))] for r in (0, 1)]
    for k, i in enumerate(shown):
        _picture(rows[0][k], frames[i], f"{t[i]:.1f} s")
        _picture(rows[1][k], under[i])
    ramp = LinearSegmentedColormap.from_list("", [BLUE, LIGHT, VERMILION])
    scale = ScalarMappable(Normalize(zero - (most or 1), zero + (most or 1)), ramp)
    bar = fig.colorbar(scale, ax=rows[1], fraction=0.04, pad=0.01)
    bar.outline.set_visible(False)
    ax, highest = fig.add_subplot(grid[2, :]), m.max((1, 2))
    ax.axhline(zero, color=GREY, linestyle="--", linewidth=1.2)
    ax.plot(t, highest, color=VERMILION)
    ax.set(xlabel="seconds", ylabel="highest")
    fig.suptitle(what[0].upper() + what[1:], x=0.01, ha="left")
    told = ", ".join(f"{highest[i]:.2g} at {t[i]:.1f} s" for i in shown)
    return fig, (
        f"Map of {what} over {_number(len(m), 'frame')}, {_told(m, t, zero)}. Highest in the "
        f"frames pictured: {told}."
    )
