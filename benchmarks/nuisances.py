"""How much do the finished weights suffer from what a film at home has? Accuracy under nuisances.

    python benchmarks/nuisances.py

Each is put upon the clips of `val` (people never trained on), at the drawn size, before anything
else sees them. Nothing was trained on any of them. The last column leaves the camera as it is: what
holding it still is worth.
"""

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from vidlib import catalog, evaluation, motion, probes, settings, video
from vidlib.predict import Predictor

RESULT = Path(__file__).with_name("nuisances.json")
Frames = NDArray[np.uint8]


def _shown(
    frames: Frames, matrices: list[NDArray[np.float64]], border: int = cv2.BORDER_REFLECT
) -> Frames:
    """Each frame through its affine matrix; what comes into sight mirrors the picture."""
    size = frames.shape[2], frames.shape[1]
    return np.stack([
        cv2.warpAffine(f, m, size, flags=cv2.INTER_CUBIC, borderMode=border)
        for f, m in zip(frames, matrices, strict=True)
    ])  # fmt: skip


def zoom(factor: float) -> Callable[[Frames, np.random.Generator], Frames]:
    """The person `factor` times as large; around smaller ones the wall is mirrored, as it stands
    still: a mirrored person would move as well."""

    def apply(frames: Frames, rng: np.random.Generator) -> Frames:
        c = frames.shape[1] / 2
        matrix = np.array([[factor, 0, c - factor * c], [0, factor, c - factor * c]])
        out = _shown(frames, [matrix] * len(frames))
        if factor < 1:
            wall = _shown(motion.still(frames)[None], [matrix])[0]
            seen = _shown(np.full_like(frames[:1], 255), [matrix], cv2.BORDER_CONSTANT)[0] == 255
            out = np.where(seen, out, wall)
        return out

    return apply


def shaken(frames: Frames, rng: np.random.Generator) -> Frames:
    """A hand-held camera: up to 4 % of the picture to every side, at 0.5 to 3 Hz."""
    t, size = np.arange(len(frames)) / 16, frames.shape[1]
    path = np.zeros((len(frames), 2))
    for axis in (0, 1):
        for hertz in rng.uniform(0.5, 3, 3):
            path[:, axis] += 0.04 / 3 * size * np.sin(2 * np.pi * (hertz * t + rng.random()))
    return _shown(frames, [np.array([[1, 0, x], [0, 1, y]]) for x, y in path])


def panned(frames: Frames, rng: np.random.Generator) -> Frames:
    """A camera that turns: a fifth of the picture within the clip, to one side."""
    way = np.linspace(-0.1, 0.1, len(frames)) * frames.shape[2] * rng.choice([-1, 1])
    return _shown(frames, [np.array([[1.0, 0, x], [0, 1, 0]]) for x in way])


def cluttered(frames: Frames, rng: np.random.Generator) -> Frames:
    """Eight bright and dark boxes before the wall, left and right of the middle third."""
    out, size = frames.copy(), frames.shape[1]
    for _ in range(8):
        w, h = rng.integers(size // 12, size // 5, 2)
        x = rng.choice([rng.integers(0, size // 3 - w // 2), rng.integers(2 * size // 3, size - 4)])
        y = rng.integers(0, size - h)
        out[:, y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return out


def halved(frames: Frames, rng: np.random.Generator) -> Frames:
    """Half the frame rate: every second frame is shown twice."""
    return frames[np.arange(len(frames)) // 2 * 2]


def occluded(frames: Frames, rng: np.random.Generator) -> Frames:
    """A grey bar, a sixth of the picture wide, somewhere over its middle half."""
    out, size = frames.copy(), frames.shape[1]
    x = rng.integers(size // 4, 3 * size // 4 - size // 6)
    out[:, :, x : x + size // 6] = 90
    return out


def grey(frames: Frames, rng: np.random.Generator) -> Frames:
    """No colour."""
    return np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
                     for f in frames])  # fmt: skip


NUISANCES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "none": lambda frames, rng: frames,
    "shaken camera": shaken,
    "turning camera": panned,
    "clutter": cluttered,
    "person 0.6 times as large": zoom(0.6),
    "person 1.4 times as large": zoom(1.4),
    "half the frame rate": halved,
    "partly hidden": occluded,
    "grey": grey,
}


def main() -> None:
    predictor = Predictor()
    clips = [c for c in catalog.find_clips(source="studio") if c.split == "val"]
    films = [video.read_frames(c.path)[0] for c in clips]
    rows = []
    for name, spoil in NUISANCES.items():
        row: dict[str, object] = {"nuisance": name}
        for column, hold in (("accuracy", True), ("camera not held", False)):
            with mock.patch.object(
                motion,
                "stabilise",
                motion.stabilise if hold else lambda f: (f, np.zeros((len(f), 2))),
            ):
                answers = [
                    predictor.predict(spoil(f, np.random.default_rng(i)), fps=16.0).top(1)[0][0]
                    for i, f in enumerate(films)
                ]
            outcome = evaluation.outcome(clips, answers, predictor.actions)
            low, high = probes.bootstrap_by_person(outcome.correct, outcome.people)
            row[column] = round(outcome.accuracy, 4)
            row[f"{column}, interval"] = [round(low, 4), round(high, 4)]
        rows.append(row)
        print(f"{name:28}{row['accuracy']:7.1%}{row['camera not held']:9.1%}", flush=True)
    encoder = predictor.encoder_meta["id"]
    text = json.dumps({"encoder": encoder, "clips": len(clips), "rows": rows}, indent=1) + "\n"
    settings.write(RESULT, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
