"""What bounds the course's accuracy: the labels, the Transformer, or what the encoder sees?

    python benchmarks/upper_bound.py

The same Transformer on the same clips, given the true places of the joints in the picture instead
of the encoder's features. What it misses then, no encoder could have helped.
"""

from collections.abc import Sequence
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from pretraining_recipes import configs, sides

from vidlib import evaluation, settings, studio, video
from vidlib.catalog import Clip
from vidlib.training import classify, train_classifier

JOINTS = ["head", "neck", "pelvis"] + [
    name + side
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe")
    for side in "LR"
]


class _Staged(Exception):
    """Raised once everybody stands where they will be drawn: nothing need be painted."""


def joints(clip: Clip, seed: int) -> NDArray[np.float32]:
    """Where the joints of a drawn clip are, on the sampling grid: (T, 2 x joints), from the
    person's middle, in sizes of the person."""
    stage: dict[str, object] = {}
    camera, world = studio._Camera, studio._World

    def keep(name: str, made: object) -> object:
        stage[name] = made
        if len(stage) == 2:
            raise _Staged
        return made

    with (
        mock.patch.object(studio, "_Camera", lambda *a: keep("camera", camera(*a))),
        mock.patch.object(studio, "_World", lambda *a: keep("world", world(*a))),
    ):
        take = int(clip.path.stem.rpartition("_")[2])
        person, scene = int(clip.person or 0), int(clip.scene or 0)
        try:
            studio.draw_clip(str(clip.action), person, scene, take, seed=seed)
        except _Staged:
            pass
    p = np.stack([stage["camera"].project(stage["world"].joints[j])[:, :2] for j in JOINTS], 1)
    profile = settings.profile()
    length = round(profile.draw_seconds * profile.fps)
    p = p[video.shown(length, profile.draw_fps, profile.fps)]
    p = (p - [p[..., 0].mean(), p[..., 1].mean()]) / np.ptp(p[..., 1])
    return p.reshape(length, -1).astype(np.float32)


def accuracy(known: Sequence[Clip], asked: Sequence[Clip], seed: int, run: int) -> float:
    x, y = [joints(c, 0) for c in known], [joints(c, seed) for c in asked]
    labels = [str(c.action) for c in known]
    model, actions, _ = train_classifier(x, labels, configs("course", run)[1], progress=False)
    named = [actions[i] for i in classify(model, y).argmax(1)]
    return evaluation.outcome(asked, named, actions).accuracy


def main() -> None:
    for people, seed in (("dev", 1), ("test", 0)):
        known, asked = sides(people)
        shares = [accuracy(known, asked, seed, run) for run in range(3)]
        print(f"{people}: {100 * np.mean(shares):.1f} % of {len(asked)} clips, true joints, 3 seeds"
              f" ({', '.join(f'{100 * s:.1f}' for s in shares)})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
