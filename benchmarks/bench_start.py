"""What one waits for: imports, `--help`, a prediction from process start to answer and inside a
running kernel; drawing clips; t-SNE.

    python benchmarks/bench_start.py [--small] [--only start drawing t-SNE]

Each process is a fresh one. Beside the waits stands what cannot be less: Python alone, or Python
with torch and OpenCV imported.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import timing

from vidlib import motion, probes, settings, studio, video

IMPORTS = "import torch, torchvision, cv2"


def process(*arguments: str) -> Callable[[], None]:
    """Python with these arguments, until it has ended."""
    environment = os.environ | {"PYTHONPATH": str(settings.REPO)}

    def run() -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True,
                       env=environment)  # fmt: skip

    return run


def starts(page: timing.Section, clip: Path, rounds: int) -> None:
    took = timing.in_turn(
        {
            "python alone": process("-c", "pass"),
            "import vidlib": process("-c", "import vidlib"),
            "python -m vidlib --help": process("-m", "vidlib", "--help"),
            "python with torch, torchvision and OpenCV": process("-c", IMPORTS),
            "vidlib predict clip, to the answer": process("-m", "vidlib", "predict", str(clip)),
        },
        rounds,
    )
    alone = took["python alone"]
    floor = took["python with torch, torchvision and OpenCV"]
    rows = [
        [name, timing.brief(t), f"{1000 * min(t):.0f} to {1000 * max(t):.0f} ms",
         timing.brief([max(0.0, a - b) for a, b in zip(t, alone, strict=True)]),
         f"{timing.median(t) / timing.median(floor):.2f}"]
        for name, t in took.items()
    ]  # fmt: skip
    page.table(("from process start to its end", "median", "range", "over python alone",
                "in parts of torch's import"), rows)  # fmt: skip


def kernel(page: timing.Section, clip: Path, rounds: int) -> None:
    """In this process, as in a notebook's."""
    from vidlib.predict import Predictor

    predictor = Predictor()
    frames, _ = video.read_frames(clip)
    fps = video.info(clip).fps
    (grid, _), *_ = predictor._segments(clip, None)
    (pictures, _), *_ = predictor.pictures(clip)
    took = timing.in_turn(
        {
            "load the weights": Predictor,
            "predict a file": lambda: predictor.predict(clip),
            "predict frames in memory": lambda: predictor.predict(frames, fps),
            "of that: decode to the grid": lambda: list(predictor._segments(clip, None)),
            "of that: hold still, subtract, follow": lambda: motion.prepare(
                grid, predictor.sampling["size"], predictor.sampling["background"]
            ),
            "of that: encode": lambda: predictor.features(pictures),
        },
        3 * rounds,
        warm=2,
    )
    page.say(f"Inside a running kernel ({len(frames)} frames of {frames.shape[1]} pixels, 2 s):")
    page.say()
    page.table(("", "median", "longest"),
               [[name, timing.brief(t), timing.brief([max(t)])]
                for name, t in took.items()])  # fmt: skip


def drawing(page: timing.Section, rounds: int, small: bool) -> None:
    people = 1 if small else 11
    profile = replace(settings.profile("quick"), people_train=people, people_val=1)
    clips = len(studio._plan(profile, 0))

    def draw(workers: int) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                studio.make_dataset(Path(folder), profile, workers=workers, progress=False)

        return run

    cores = os.cpu_count() or 1
    took = timing.in_turn(
        {f"{n} process{'es' * (n > 1)}": draw(n) for n in sorted({1, cores})}, rounds, warm=0
    )
    page.say(f"The studio, {clips} clips of 96 pixels and 32 frames, drawn and written:")
    page.say()
    page.table(("", "clips/s", "range"),
               [[name, f"{clips / timing.median(t):.1f}",
                 f"{clips / max(t):.1f} to {clips / min(t):.1f}"]
                for name, t in took.items()])  # fmt: skip


def maps(page: timing.Section, rounds: int, small: bool) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n in (100,) if small else (192, 576, 2000):
        # eight clouds in 512 dimensions, as wide as pooled features are
        x = rng.normal(size=(8, 512))[rng.integers(8, size=n)] + rng.normal(size=(n, 512))
        x = x.astype(np.float32)
        took = timing.in_turn({"t-SNE": lambda x=x: probes.tsne(x)}, rounds)["t-SNE"]
        rows.append([f"{n}", timing.brief(took), f"{min(took):.2f} to {max(took):.2f} s"])
    page.say("t-SNE of clips' pooled features (512 numbers each), scikit-learn's:")
    page.say()
    page.table(("clips", "median", "range"), rows)


def waits(page: timing.Section, rounds: int, small: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.webm"
        video.write_video(clip, studio.draw_clip("waving", 10_007, 10_007, 0), 16.0)
        starts(page, clip, rounds)
        kernel(page, clip, rounds)


PARTS = {"start": ("Start and predict", waits), "drawing": ("Drawing", drawing),
         "t-SNE": ("t-SNE", maps)}  # fmt: skip


def main() -> None:
    asked = timing.arguments(__doc__, [*PARTS])
    packages = ("torch", "torchvision", "opencv-python", "scikit-learn", "numpy")
    for part in asked.only:
        title, measure = PARTS[part]
        with timing.section(title, packages, asked.small) as page:
            measure(page, 1 if asked.small else 7, asked.small)


if __name__ == "__main__":
    main()
