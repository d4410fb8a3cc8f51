"""How time and memory grow with the work: clips, people, processes, frames of a clip, a long film.

    python benchmarks/bench_growth.py [--small] [--only clips people frames film]

Every figure is of a process of its own: its seconds, and the most memory that it held above what it
held before the work. `growth.json` keeps them, `growth.png` draws them. The exponent is that of the
last step: 1 where twice the work takes twice as long, 0 where it takes no longer. Clips are small
files (32 pixels, 2 s), each of its own content.
"""

import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timing

from vidlib import studio, video

KEPT = Path(__file__).with_name("growth.json")
PLOT = KEPT.with_suffix(".png")
GRID = 12.0
CLIPS = 10_000  # of so many people
Point = tuple[int, float, float]  # how much work, seconds, bytes

STAGES = {  # what is done with n clips, in the order in which a learner comes to it
    "catalogue": "find the clips and split them by person",
    "frame cache": "decode them into the frame cache, one process",
    "next epoch": "read them from the cache",
    "batch": "ten batches of pre-training",
    "linear probe": "a linear probe on features of 256 numbers",
    "kNN": "kNN on these, each clip against all",
    "interval": "the bootstrap interval by person",
}
PEOPLE = {
    "split": "split them by person",
    "folds": "leave one person out, ten of the folds",
    "people's interval": "the bootstrap interval by person",
}


def make_clips(folder: Path, count: int) -> Path:
    """`count` drawn clips, ten of a person; alike but for the number in their header (Matroska's
    TrackUID), so that each is decoded for itself."""
    film = [video.letterbox(frame, 32) for frame in studio.draw_clip("waving", 1, 1, 0)[:24]]
    video.write_video(folder / "one.webm", film, GRID)
    content, track = (folder / "one.webm").read_bytes(), b"\xc5\x88" + (1).to_bytes(8, "big")
    root = folder / f"{count}"
    for i in range(count):
        action = studio.ACTIONS[i % len(studio.ACTIONS)]
        path = root / action / f"studio_{i // 10:04d}_{i % 7:04d}_{i % 10}.webm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(track, b"\xc5\x88" + (i + 2).to_bytes(8, "big")))
    return root


def make_film(path: Path, frames: int, fps: float, size: int) -> Path:
    """A film of that many frames: one drawn clip, over and over."""
    clip = [video.letterbox(f, size) for f in studio.draw_clip("waving", 1, 1, 0, fps=GRID)]
    video.write_video(path, itertools.islice(itertools.cycle(clip), frames), fps)
    return path


def work(kind: str, source: str, count: int) -> Callable[[], Any]:
    """What is measured: everything that it needs is ready when it is called."""
    from vidlib import catalog, probes, sampling

    if kind in PEOPLE:
        people = [f"{i % count}" for i in range(CLIPS)]
        some = [catalog.Clip(Path(f"{i}.webm"), studio.ACTIONS[i // count % 8], person)
                for i, person in enumerate(people)]  # fmt: skip
        right = np.arange(CLIPS) % 10 > 0
        return {
            "split": lambda: catalog.split_train_val(some),
            "folds": lambda: list(itertools.islice(catalog.leave_one_person_out(some), 10)),
            "people's interval": lambda: probes.bootstrap_by_person(right, people),
        }[kind]
    small = {"size": 16, "fps": GRID}
    if kind in ("file", "frames"):
        from vidlib.predict import Predictor

        predictor = Predictor()
        # the first prediction also sets up torch
        predictor.predict(studio.draw_clip("waving", 1, 1, 0), 16.0)
        if kind == "file":
            return lambda: predictor.predict(source)
        frames = np.resize(studio.draw_clip("waving", 1, 1, 0), (count, 96, 96, 3))
        return lambda: predictor.predict(frames, GRID)
    if kind in ("linear probe", "kNN", "interval"):
        rng = np.random.default_rng(0)
        labels = [str(i % 8) for i in range(count)]
        x = rng.normal(size=(8, 256))[np.arange(count) % 8] + 3 * rng.normal(size=(count, 256))
        if kind == "interval":
            people = [f"{i // 10}" for i in range(count)]
            return lambda: probes.bootstrap_by_person(rng.random(count) < 0.9, people)
        probe = probes.knn if kind == "kNN" else probes.linear_probe
        return lambda: probe(x, labels, x)
    if kind == "catalogue":
        return lambda: catalog.split_train_val(catalog.find_clips(source, "all"))
    clips = catalog.find_clips(source, "all")
    cache = sampling.FrameCache(Path(f"{source}-cache"), **small)
    paths = [clip.path for clip in clips]
    if kind == "frame cache":
        return lambda: cache.build(paths, workers=1, progress=False)
    if kind.startswith("processes"):
        cache = sampling.FrameCache(Path(f"{source}-{kind}"), **small)
        return lambda: cache.build(paths, workers=int(kind.split()[1]), progress=False)
    if kind == "next epoch":
        return lambda: [np.array(cache.frames(path)) for path in paths]

    from vidlib import pretraining, settings

    config = settings.PretrainConfig(**small, background="none")
    frames = pretraining.Frames(clips[:1], config)  # what opening all costs is "next epoch"
    frames.cache, frames.paths, frames.lengths = cache, paths, [24] * len(paths)
    return lambda: [frames.batch(step) for step in range(10)]


def measure(kind: str, source: str, count: str) -> None:
    """In a process of its own."""
    call = work(kind, source, int(count))
    before = timing.held()
    began = time.perf_counter()
    call()
    print(json.dumps([time.perf_counter() - began, max(0, timing.peak() - before)]))


def points(kind: str, sources: Iterable[tuple[int, Path | str]]) -> list[Point]:
    out = []
    for count, source in sources:
        seconds, held = timing.fresh(Path(__file__), "--measure", kind, str(source), str(count))
        out.append((count, seconds, held))
        print(f"{kind} {count}: {seconds:.3g} s, {held / 2**20:.0f} MiB", flush=True)
    return out


def exponent(curve: Sequence[Point]) -> str:
    (n, a, _), (m, b, _) = curve[-2:]
    return f"{math.log(b / a) / math.log(m / n):.2f}"


def table(page: timing.Section, what: str, curves: dict[str, list[Point]]) -> None:
    """A row a curve: seconds (MiB) at each size."""
    sizes = sorted({n for curve in curves.values() for n, *_ in curve})
    rows = []
    for name, curve in curves.items():
        at = {n: f"{timing.brief([s])} ({held / 2**20:,.0f} MiB)" for n, s, held in curve}
        rows.append(
            [(STAGES | PEOPLE).get(name, name), *(at.get(n, "") for n in sizes), exponent(curve)]
        )
    page.table((what, *(f"{n:,}" for n in sizes), "exponent"), rows)


def of_clips(page: timing.Section, folder: Path, small: bool) -> dict[str, list[Point]]:
    sizes = (20, 100) if small else (100, 1000, 10_000)
    roots = [(n, make_clips(folder, n)) for n in sizes]
    curves = {kind: points(kind, roots) for kind in STAGES}
    page.say("Time, and memory in brackets, with the number of clips (ten of a person):")
    page.say()
    table(page, "clips", curves)
    count, root = roots[-2]
    workers = {f"processes {n}": points(f"processes {n}", [(count, root)])[0] for n in (1, 2, 4)}
    page.say(f"The frame cache of {count:,} clips in several processes, from an empty one ("
             f"{os.cpu_count()} cores):")  # fmt: skip
    page.say()
    page.table([*workers], [[timing.brief([seconds]) for _, seconds, _ in workers.values()]])
    return curves


def of_people(page: timing.Section, folder: Path, small: bool) -> dict[str, list[Point]]:
    sizes = (10, 100) if small else (10, 100, 1000, 10_000)
    curves = {kind: points(kind, ((n, "-") for n in sizes)) for kind in PEOPLE}
    page.say(f"Time, and memory in brackets, with the people of {CLIPS:,} clips:")
    page.say()
    table(page, "people", curves)
    return curves


def of_frames(page: timing.Section, folder: Path, small: bool) -> dict[str, list[Point]]:
    sizes = (32, 128) if small else (32, 128, 512, 2048, 4096)
    films = [(n, make_film(folder / f"{n}.webm", n, GRID, 96)) for n in sizes]
    curves = {
        "predict a file": points("file", films),
        "predict frames in memory": points("frames", ((n, "-") for n in sizes)),
    }
    page.say("Time, and memory in brackets, with the frames of one clip (96 pixels):")
    page.say()
    table(page, "frames", curves)
    return curves


def of_film(page: timing.Section, folder: Path, small: bool) -> dict[str, list[Point]]:
    """Two minutes and two hours at two frames a second, each shown at six points of the grid."""
    lengths = (20, 60) if small else (120, 7200)
    films = [(int(s * GRID), make_film(folder / f"{s}.webm", 2 * s, 2.0, 48)) for s in lengths]
    curve = points("file", films)
    page.say("A film (48 pixels, 2 frames a second; predicted at 12), and the most memory that its "
             "prediction held above the model's:")  # fmt: skip
    page.say()
    page.table(("film", "seconds to predict", "memory", "times as fast as it plays"),
               [[f"{s / 60:.3g} minutes", timing.brief([seconds]), f"{held / 2**20:,.0f} MiB",
                 f"{s / seconds:.0f}"]
                for s, (_, seconds, held) in zip(lengths, curve, strict=True)])  # fmt: skip
    return {"predict a film": curve}


PARTS = {"clips": of_clips, "people": of_people, "frames": of_frames, "film": of_film}


def draw(kept: dict[str, dict[str, list[Point]]], path: Path) -> None:
    """Seconds above, memory below; grey lines rise as the work does."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12.5, 6.4), sharex="col", layout="constrained")
    sides = {
        "clips": kept.get("clips", {}),
        f"people, {CLIPS:,} clips in all": kept.get("people", {}),
        "frames of a clip, on the grid": kept.get("frames", {}) | kept.get("film", {}),
    }
    for column, (what, curves) in enumerate(sides.items()):
        for row, unit in enumerate(("seconds", "MiB above the start")):
            axis = axes[row, column]
            for (name, curve), marker in zip(curves.items(), "os^vDPX", strict=False):
                y = [p[1] if row == 0 else max(p[2] / 2**20, 0.1) for p in curve]
                axis.loglog([p[0] for p in curve], y, marker=marker, ms=4, label=name)
            axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # as the curves have it
            for start in 10.0 ** np.arange(-8, 6):
                axis.plot([1, 1e6], [start, start * 1e6], color="0.9", lw=0.7, zorder=0)
            axis.set_ylabel(unit)
        if curves:
            axes[0, column].legend(fontsize=7)
        axes[1, column].set_xlabel(what)
    figure.savefig(path, dpi=64)
    plt.close(figure)


def main() -> None:
    asked = timing.arguments(__doc__, [*PARTS])
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() and not asked.small else {}
    for part in asked.only:
        with (
            tempfile.TemporaryDirectory() as folder,
            timing.section(f"Growth, {part}", ("torch", "opencv-python", "scikit-learn"),
                           asked.small) as page,
        ):  # fmt: skip
            os.environ["VIDLIB_DATA"] = folder  # the shipped weights answer
            kept[part] = PARTS[part](page, Path(folder), asked.small)
            page.say(f"![growth]({PLOT.name})" if part == "clips" else "")
    if asked.small:
        with tempfile.TemporaryDirectory() as folder:
            draw(kept, Path(folder) / PLOT.name)
        return
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    draw(kept, PLOT)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
