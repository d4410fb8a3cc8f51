"""Make README's moving picture, course.webp, from real clips, weights and predictions:

    .venv/bin/python docs/make_picture.py

It takes your own weights, else the shipped ones, and draws the current profile's clips if they are
not there yet. Four scenes: raw clips, what moves in them, features on a map, predictions.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vidlib import (
    catalog,
    encoders,
    evaluation,
    features,
    figures,
    probes,
    studio,
    training,
    video,
)
from vidlib.catalog import Clip
from vidlib.predict import Predictor
from vidlib.settings import PretrainConfig

FPS = 10.0  # of the picture
SIZE = (7.6, 4.3)  # inches at 100 dots each
LIMIT = 1_450_000  # bytes
STEPS = ("Clips", "What moves", "Features, no labels", "Which action, when")
SHOTS = ("waving", "jumping_jacks", "sitting_down")  # the film of the last scene
SHOT_SECONDS, SPEED = 2.5, 1.5

Frame = NDArray[np.uint8]  # (H, W, 3), RGB


def page(step: int, text: str) -> Figure:
    """An empty page: where we are among the steps, and one line that says what is to be seen."""
    fig = Figure(SIZE, dpi=100)
    x = 0.02
    for i, name in enumerate(STEPS):
        now = i == step
        box = {"boxstyle": "round,pad=0.35", "linewidth": 0,
               "facecolor": figures.BLUE if now else figures.LIGHT}  # fmt: skip
        fig.text(x + 0.01, 0.935, f"{i + 1}  {name}", color="white" if now else figures.GREY,
                 fontweight="bold" if now else "normal", va="center", bbox=box)  # fmt: skip
        x += 0.07 + 0.0137 * len(name)
    fig.text(0.02, 0.855, text, va="center", fontsize=10.5)
    return fig


def picture(fig: Figure) -> Frame:
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def playing(step: int, text: str, clips: list[tuple[str, NDArray[Any]]]) -> Iterator[Frame]:
    """Eight clips (T, S, S, 3) with their names, in two rows, played once."""
    fig, shown = page(step, text), []
    for i, (name, frames) in enumerate(clips):
        row, column = divmod(i, 4)
        ax = fig.add_axes((0.035 + 0.24 * column, 0.425 - 0.41 * row, 0.205, 0.205 * 7.6 / 4.3))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_title(name.replace("_", " "), fontsize=9, fontweight="normal", loc="center", pad=3)
        shown.append(ax.imshow(frames[0], interpolation="bicubic"))
    for k in range(max(len(frames) for _, frames in clips)):
        for image, (_, frames) in zip(shown, clips, strict=True):
            image.set_data(frames[min(k, len(frames) - 1)])
        yield picture(fig)


def moving_only(path: Path, predictor: Predictor) -> NDArray[np.float32]:
    """A clip as the encoder sees it, in 0..1: grey is 0.5."""
    background, (frames, at) = predictor.sampling["background"], next(predictor.pictures(path))
    frames = frames[[np.abs(at - t).argmin() for t in np.arange(at[0], at[-1], 1 / FPS)]]
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None]
    x = encoders.to_float(clip, background)[0].permute(0, 2, 3, 1).numpy()
    return x if background == "none" else (0.5 + 0.8 * x).clip(0, 1)


def maps(predictor: Predictor, clips: list[Clip]) -> Iterator[Frame]:
    """The clips' features on a map, untrained and pre-trained, the points on their way between."""
    before = evaluation.untrained(PretrainConfig(**predictor.encoder_meta["config"]))
    at = []
    for encoder in (before, predictor.encoder):
        x = probes.pool(features.extract_features(encoder, clips, predictor.sampling))
        points = probes.tsne(x)
        at.append((points - points.mean(0)) / np.abs(points - points.mean(0)).max(0))
    names, groups = catalog.actions(clips), []
    fig = page(
        2,
        f"t-SNE of {len(clips)} clips of people never trained on; colours came afterwards",
    )
    ax = fig.add_axes((0.03, 0.03, 0.68, 0.72), xticks=[], yticks=[], xlim=(-1.1, 1.1),
                      ylim=(-1.15, 1.15))  # fmt: skip
    ax.spines[:].set(visible=True, color=figures.LIGHT)
    for i, name in enumerate(names):
        mine = np.array([c.action == name for c in clips])
        look = {"marker": figures.MARKERS[i % 9], "color": figures.COLOURS[i % 8], "s": 34}
        groups.append((ax.scatter(*at[0][mine].T, label=name.replace("_", " "), **look), mine))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=10)
    said = ax.text(-1.06, 1.03, "", va="center", fontweight="bold", fontsize=10)
    said.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8})
    for s in np.concatenate([np.zeros(9), np.linspace(0, 1, 9), np.ones(12)]):
        smooth = s * s * (3 - 2 * s)
        for dots, mine in groups:
            dots.set_offsets((1 - smooth) * at[0][mine] + smooth * at[1][mine])
        said.set_text(
            "untrained encoder" if s == 0 else "after SimSiam" if s == 1 else "training …"
        )
        yield picture(fig)


@torch.inference_mode()
def over_time(predictor: Predictor, frames: NDArray[np.uint8], fps: float) -> NDArray[Any]:
    """Probabilities (T, K) at each of the frames: those of the window nearest around it."""
    grid, length = predictor.sampling["fps"], predictor.model.spec["window"]
    x = [predictor.features(seen) for seen, _ in predictor.pictures(frames, fps)]
    x, valid, _, starts = training.windows(x, length, 1)
    p = predictor.model(x, valid).softmax(1).numpy()
    centre = (starts + length / 2) / grid
    return p[[np.abs(centre - k / fps).argmin() for k in range(len(frames))]]


def answers(predictor: Predictor, person: int, scene: int) -> Iterator[Frame]:
    """A film of one person, and what the model says while it plays."""
    fps = FPS / SPEED * 2
    shots = [studio.draw_clip(a, person, scene, 100, 192, fps, SHOT_SECONDS) for a in SHOTS]
    p = np.concatenate([over_time(predictor, shot, fps) for shot in shots])  # (T, K)
    film, names = np.concatenate(shots), [a.replace("_", " ") for a in predictor.actions]
    seconds, kept = np.arange(len(film)) / fps, np.sort(np.argsort(-p.max(0))[:8])
    fig = page(3, "a person and a room never seen in training, predicted by the Transformer")
    ax = fig.add_axes((0.02, 0.3, 0.28, 0.28 * 7.6 / 4.3), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    image = ax.imshow(film[0])
    ax = fig.add_axes((0.48, 0.3, 0.47, 0.5), xlim=(0, 1.15), xticks=[])
    bars = ax.barh(range(len(kept)), p[0, kept], height=0.7)
    ax.set_yticks(range(len(kept)), [names[i] for i in kept], fontsize=10)
    ax.set_ylim(len(kept) - 0.5, -0.5)
    ax.tick_params(left=False)
    ax.spines["bottom"].set_visible(False)
    said = [ax.text(0, y, "", va="center", fontsize=10) for y in range(len(kept))]
    ax = fig.add_axes((0.02, 0.1, 0.93, 0.13), xlim=(0, seconds[-1]), ylim=(0, 1), yticks=[])
    ax.stackplot(seconds, p.T, colors=[figures.COLOURS[i % 8] for i in range(len(names))])
    ax.set_xlabel("seconds", labelpad=1)
    cursor = [ax.axvline(0, color=c, linewidth=w) for c, w in (("white", 6), ("black", 2.5))]
    for k in range(0, len(film), 2):
        image.set_data(film[k])
        for line in cursor:
            line.set_xdata([seconds[k]] * 2)
        for bar, text, i in zip(bars, said, kept, strict=True):
            bar.set(width=p[k, i], color=figures.COLOURS[i % 8])
            text.set(x=p[k, i] + 0.015, text=f"{p[k, i]:.0%}", weight="normal")
            if i == p[k].argmax():
                text.set_weight("bold")
        yield picture(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make README's moving picture.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("course.webp"))
    parser.add_argument("--person", type=int, help="of the film (default: the first of val)")
    parser.add_argument("--scene", type=int, help="of the film (default: the first of val)")
    args = parser.parse_args()
    studio.make_dataset()
    clips = [c for c in catalog.find_clips(source="studio") if c.split == "val"]
    predictor = Predictor()
    people = sorted({c.person for c in clips})
    chosen = []
    for i, action in enumerate(catalog.actions(clips)):  # another person each, as far as they go
        mine = [c for c in clips if c.action == action]
        chosen.append(next(c for c in mine if c.person == people[i % len(people)]))
    raw = [(c.action, video.read_frames(c.path, fps=FPS)[0]) for c in chosen]
    seen = [(c.action, moving_only(c.path, predictor)) for c in chosen]
    first = clips[0]
    person = int(first.person) if args.person is None else args.person
    scene = int(first.scene) if args.scene is None else args.scene
    with figures.style():
        frames = [
            *playing(0, "people, rooms and clothes, drawn by the course; or your own videos", raw),
            *playing(1, "the encoder's input: the camera held still, what moves followed", seen),
            *maps(predictor, clips),
            *answers(predictor, person, scene),
        ]
    data = figures.to_webp(np.stack(frames), FPS, round(SIZE[0] * 100), LIMIT)
    args.out.write_bytes(data)
    print(
        f"{args.out}: {len(data) / 1e6:.2f} MB, {len(frames) / FPS:.1f} s; {predictor.weights_note}"
    )


if __name__ == "__main__":
    main()
