"""Weights + a video -> what the person does, when, and which frames said so.

T frames on the sampling grid, W sliding windows, K actions.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import checkpoints, motion, sampling, settings, video
from .features import encode
from .settings import UserError
from .training import windows
from .videomae import Classifier

# An answer that is no more probable than this is as likely wrong as right, and told as 'unsure'.
UNSURE = 0.5
# seconds decoded at once; the frame cache holds clips of the same length, so that the median
# frame is taken over as much when training as when predicting
SEGMENT = 20.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """The answer for one video. Times are in seconds from the video's start."""

    path: str
    actions: list[str]
    probabilities: Floats  # (K,), the windows' mean; sums to 1
    window_times: Floats  # (W, 2), start and end
    window_probabilities: Floats  # (W, K)
    frame_times: Floats  # (T,)
    frame_weights: Floats  # (T,), the Transformer's attention; sums to 1
    seconds: float  # how long the prediction took

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """The k most probable actions, best first."""
        order = np.argsort(-self.probabilities)[:k]
        return [(self.actions[i], float(self.probabilities[i])) for i in order]

    @property
    def answer(self) -> str:
        """The most probable action, or 'unsure' where its probability is not above UNSURE."""
        action, p = self.top(1)[0]
        return action if p > UNSURE else "unsure"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for json.dumps."""
        return {
            "path": self.path,
            "action": self.top(1)[0][0],
            "answer": self.answer,
            "probabilities": {a: round(p, 4) for a, p in self.top(len(self.actions))},
            "timeline": [
                {
                    "start": round(float(start), 3),
                    "end": round(float(end), 3),
                    "action": self.actions[int(p.argmax())],
                    "probabilities": {
                        a: round(float(q), 4) for a, q in zip(self.actions, p, strict=True)
                    },
                }
                for (start, end), p in zip(
                    self.window_times, self.window_probabilities, strict=True
                )
            ],
            "seconds": round(self.seconds, 3),
        }


class Predictor:
    """An encoder and the Transformer that belongs to it.

    Without paths: the learner's own weights where both exist, else the shipped ones; `weights_note`
    says which. Raises UserError when there are none, or they do not belong together.
    """

    def __init__(
        self,
        encoder_path: Path | None = None,
        classifier_path: Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        if encoder_path is None and classifier_path is None:
            encoder_path, classifier_path, self.weights_note = find_weights()
        else:
            encoder_path = encoder_path or settings.encoder_path()
            classifier_path = classifier_path or settings.classifier_path()
            self.weights_note = f"weights: {encoder_path.name}, {classifier_path.name}"
        self.device = device or settings.device()
        encoder, self.encoder_meta = checkpoints.load_encoder(encoder_path)
        model, self.meta = checkpoints.load_classifier(classifier_path, self.encoder_meta["id"])
        self.encoder = self.meta.pop("tuned", encoder).to(self.device)
        self.model = model
        self.actions: list[str] = self.meta["classes"]
        self.sampling: dict[str, Any] = self.meta["sampling"]

    def predict(
        self,
        source: str | Path | NDArray[np.uint8],
        fps: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Prediction:
        """`source`: a video file, or frames uint8 (T, H, W, 3) RGB at `fps` frames per second.

        A long film is read in segments, so that memory stays bounded; `progress` is told the
        seconds that are done. Raises VideoError for a file
        that cannot be read, UserError for frames of another shape.
        """
        began = time.perf_counter()
        grid, length = self.sampling["fps"], self.model.spec["window"]
        times, weights, window_times, window_p = [], [], [], []
        for pictures, at in self.pictures(source, fps):
            features = self.features(pictures)
            x, valid, _, starts = windows([features], length, max(1, length // 2))
            with torch.inference_mode():
                pooled, attention = self.model.tokens(x, valid)
                p = self.model.logits(pooled).softmax(1).double().numpy()
            _check_answer(p, self.weights_note)
            # where nothing moves nothing is known, whatever the Transformer makes of noise
            background = self.sampling["background"]
            still = [not motion.moves(pictures[s : s + length], background) for s in starts]
            p[still] = 1 / p.shape[1]
            window_p.append(p)
            share = np.zeros(len(pictures))
            for start, w, v in zip(starts, attention.double().numpy(), valid.numpy(), strict=True):
                share[start : start + v.sum()] += w[v]
            times.append(at)
            weights.append(share)
            ends = np.minimum(starts + length, len(pictures))
            window_times.append(at[0] + np.stack([starts, ends], axis=1) / grid)
            if progress:
                progress(float(at[-1]))
        if not times:
            raise UserError(f"{source}: no frame to predict from: give a longer clip")
        frame_weights, p = np.concatenate(weights), np.concatenate(window_p)
        return Prediction(
            path=str(source) if isinstance(source, str | Path) else "frames",
            actions=self.actions,
            probabilities=p.mean(0),
            window_times=np.concatenate(window_times),
            window_probabilities=p,
            frame_times=np.concatenate(times),
            frame_weights=frame_weights / max(frame_weights.sum(), 1e-12),
            seconds=time.perf_counter() - began,
        )

    def pictures(
        self, source: str | Path | NDArray[np.uint8], fps: float | None = None
    ) -> Iterator[tuple[NDArray[np.uint8], Floats]]:
        """What the encoder is given, uint8 (T, size, size, 3), and the frames' times in seconds
        (T,), about SEGMENT seconds at once. `source` and errors as `predict`'s."""
        for frames, at in self._segments(source, fps):
            yield motion.prepare(frames, self.sampling["size"], self.sampling["background"]), at

    def features(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The frames' features (T, D) of one clip's `pictures`."""
        return encode(self.encoder, pictures, self.sampling["background"], self.device)

    def _segments(
        self, source: str | Path | NDArray[np.uint8], fps: float | None
    ) -> Iterator[tuple[NDArray[np.uint8], Floats]]:
        """Frames (T, S, S, 3) on the grid and their times (T,), about SEGMENT seconds at once."""
        grid = self.sampling["fps"]
        size = motion.source_size(self.sampling["size"], self.sampling["background"])
        if isinstance(source, np.ndarray):
            whole, length = _on_grid(source, fps, grid, size), round(SEGMENT * grid)
            parts = np.split(whole, range(length, len(whole), length))
            times = np.split(np.arange(len(whole)) / grid, range(length, len(whole), length))
            pieces = zip(parts, times, strict=True)
        else:
            pieces = video.iter_segments(Path(source), SEGMENT, grid, size)
        held = None
        for frames, at in pieces:
            if held is not None and len(frames) < self.model.spec["window"]:
                # a last scrap has no median worth the name: it joins the segment before
                held = np.concatenate([held[0], frames]), np.concatenate([held[1], at])
                continue
            if held is not None:
                yield held
            held = frames, at
        if held is not None:
            yield held


class VideoMAEPredictor:
    """A VideoMAE classifier, published or own, in the place of a `Predictor`.

    `source` as in `videomae`'s `from_pretrained`; a film is answered for by `clips` x `crops`
    views (5 x 3 as published; own models see square pictures, of which there is one crop).
    """

    def __init__(
        self,
        source: str | Path,
        clips: int = 5,
        crops: int = 3,
        device: torch.device | None = None,
    ) -> None:
        self.model = Classifier.from_pretrained(source).to(device or settings.device())
        self.clips, self.crops = clips, crops
        self.actions = list(self.model.config.classes)
        self.weights_note = f"VideoMAE {source}"

    def predict(
        self,
        source: str | Path | NDArray[np.uint8],
        fps: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Prediction:
        """As `Predictor.predict`. The windows are the clips, each the mean of its crops'
        probabilities; the frames that they hold count alike."""
        began = time.perf_counter()
        x, at, times = self.views(source, fps)
        p = self.model.multi_view(torch.from_numpy(x)).softmax(1).double().cpu().numpy()
        _check_answer(p, self.weights_note)
        p = p.reshape(len(at), -1, p.shape[1]).mean(1)
        end = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 0.0)
        if progress:
            progress(float(end))
        after = np.append(times[1:], end)
        seen = np.unique(at)
        return Prediction(
            path=str(source) if isinstance(source, str | Path) else "frames",
            actions=self.actions,
            probabilities=p.mean(0),
            window_times=np.stack([times[at[:, 0]], after[at[:, -1]]], axis=1),
            window_probabilities=p,
            frame_times=times[seen],
            frame_weights=np.full(len(seen), 1 / len(seen)),
            seconds=time.perf_counter() - began,
        )

    def views(
        self, source: str | Path | NDArray[np.uint8], fps: float | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp], Floats]:
        """What the model is shown, as `sampling.views` makes it, and all frames' times (T,)."""
        c = self.model.config
        if c.fps is not None:  # an own model: the frame cache's pictures
            side = motion.source_size(c.size, c.background)
            if isinstance(source, np.ndarray):
                parts = [_on_grid(source, fps, c.fps, side)]
            else:
                parts = [f for f, _ in video.iter_segments(Path(source), SEGMENT, c.fps, side)]
            frames = np.concatenate([motion.prepare(f, c.size, c.background) for f in parts])
            x, at = sampling.views(frames, c.frames, c.stride, c.size, self.clips)
            return x, at, np.arange(len(frames)) / c.fps
        if isinstance(source, np.ndarray):
            _check_frames(source, fps)
            x, at = sampling.views(source, c.frames, c.stride, c.size, self.clips, self.crops)
            return x, at, np.arange(len(source)) / fps
        # twice through the file: how many frames there are is known at its end, and a long film's
        # do not fit into memory
        times = np.array([seconds for seconds, _ in video.iter_frames(source)])
        at = sampling.clip_frames(len(times), c.frames, c.stride, self.clips)
        wanted = set(at.flat)
        cut = {
            i: sampling.crops(frame, c.size, self.crops)
            for i, (_, frame) in enumerate(video.iter_frames(source))
            if i in wanted
        }
        return sampling.join_views(cut, at), at, times


def _check_frames(frames: NDArray[Any], fps: float | None) -> None:
    right = frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == np.uint8 and frames.size
    if not right or fps is None or not 0.1 <= fps <= 1000:  # nan is not
        raise UserError(
            "frames must be uint8 (T, H, W, 3) with fps from 0.1 to 1000, got "
            f"{frames.dtype} {frames.shape} with {fps}"
        )


def _on_grid(
    frames: NDArray[np.uint8], fps: float | None, grid: float, side: int
) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) at `fps` -> (T', side, side, 3) at `grid` frames per second, as a file
    is read. Errors as `_check_frames`."""
    _check_frames(frames, fps)
    count = max(1, round(len(frames) / fps * grid))
    at = np.minimum(video.shown(count, fps, grid), len(frames) - 1)
    return np.stack([video.letterbox(frames[i], side) for i in at])


def _check_answer(p: Floats, weights: str) -> None:
    if not np.isfinite(p).all():
        raise UserError(
            f"{weights}: the answer is not a number: make the weights again, or take others"
        )


def find_weights() -> tuple[Path, Path, str]:
    """-> encoder, classifier, and a note: the learner's own where both exist, else the shipped."""
    own = settings.encoder_path(), settings.classifier_path()
    shipped = tuple(settings.shipped_dir() / p.name for p in own)
    if all(p.is_file() for p in own):
        return *own, "your own weights"
    if all(p.is_file() for p in shipped):
        return shipped[0], shipped[1], "the shipped weights"
    raise UserError("no weights yet: make them with vidlib pretrain and vidlib train (make course)")
