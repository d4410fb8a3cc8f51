"""What did an answer rest on? Maps over space and time: by covering, and by attention.

    predictor = predict.Predictor()
    pictures, times = next(predictor.pictures("clip.webm"))        # what the encoder is given
    ask = explain.asks(predictor, pictures)
    fall = explain.occlusion(ask, pictures, cover=motion.ZERO)     # (T, H, W), in probability
    figures.play(*figures.heat(pictures, fall, times, "fall in probability"), side=480)

    # a model of whole clips, such as VideoMAE: `ask` is any function clip -> probabilities, and
    # its attentions (L, B, heads, N, N) over the tokens of a grid (T', H', W') are laid on a clip
    # (give `normalise` the model's config.background, too)
    fall = explain.occlusion(lambda clip: model(normalise(clip)).softmax(1), frames)
    looks = explain.attention_map(model.attentions(normalise(clip)), model.config.grid,
                                  frames.shape[:3])[0]
    figures.play(*figures.heat(frames, looks, times, "attention", zero=1.0), side=480)

Covering asks the model and finds what its answer needs; attention shows where it looked, which is
not the same (Jain & Wallace, "Attention is not Explanation", NAACL 2019).

B clips, T frames, H x W pixels, K actions; L layers, N tokens.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from . import motion
from .predict import Predictor
from .training import classify

Ask = Callable[[Tensor], ArrayLike | Tensor]  # clip uint8 (B, T, 3, H, W) -> probabilities (B, K)


def boxes(shape: tuple[int, ...], box: tuple[int, ...], stride: tuple[int, ...]
          ) -> list[tuple[slice, ...]]:  # fmt: skip
    """The places of a box that slides over (T, H, W), a stride at a time; the last ones lie flush
    with the end, so that every pixel of every frame is covered."""
    axes = []
    for length, side, step in zip(shape, box, stride, strict=True):
        side = min(side, length)
        starts = sorted({*range(0, length - side, max(1, step)), length - side})
        axes.append([slice(s, s + side) for s in starts])
    return list(itertools.product(*axes))


def occlusion(
    ask: Ask,
    frames: NDArray[np.uint8],
    action: int | None = None,
    box: tuple[int, int, int] | None = None,
    stride: tuple[int, int, int] | None = None,
    cover: ArrayLike | None = None,
    batch: int = 16,
) -> NDArray[np.float32]:
    """How far the probability of `action` falls when a box of space and time is covered, for each
    pixel of frames uint8 (T, H, W, 3) the mean over the boxes that cover it: float32 (T, H, W).
    Below 0 where covering makes the action more probable (Zeiler & Fergus, ECCV 2014, section 4.2,
    for pictures).

    `ask`: clip uint8 (B, T, 3, H, W) -> probabilities (B, K), asked `batch` clips at once.
    `action`: its column (None: the most probable one). `box`: frames, rows and columns (None: a
    quarter of each); `stride` likewise (None: half a box). `cover`: what is put there, grey levels
    that fit (T, H, W, 3) (None: the clip's median frame, so that what moved there is gone and the
    wall stays; pictures of `motion.person` have motion.ZERO for that).
    """
    size = frames.shape[:3]
    box = box or (max(1, size[0] // 4), max(1, size[1] // 4), max(1, size[2] // 4))
    stride = stride or (max(1, box[0] // 2), max(1, box[1] // 2), max(1, box[2] // 2))
    under = np.broadcast_to(motion.still(frames) if cover is None else cover, frames.shape)

    def told(clips: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
        asked = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
        with torch.no_grad():
            return torch.as_tensor(ask(asked)).double().cpu().numpy()

    whole = told([frames])[0]
    action = int(whole.argmax()) if action is None else action
    places = boxes(size, box, stride)
    total, count = np.zeros(size), np.zeros(size)
    for begin in range(0, len(places), batch):
        some, clips = places[begin : begin + batch], []
        for place in some:
            clips.append(frames.copy())
            clips[-1][place] = under[place]
        for place, p in zip(some, told(clips), strict=True):
            total[place] += whole[action] - p[action]
            count[place] += 1
    return (total / count).astype(np.float32)


def asks(predictor: Predictor, pictures: NDArray[np.uint8]) -> Ask:
    """The question `occlusion` asks the course's pair about one clip's `pictures` (T, H, W, 3), of
    `Predictor.pictures`: the windows' mean probabilities, as `Predictor.predict`'s but for clips
    in which nothing moves.

    The encoder sees frame by frame, so of a covered clip only the frames that changed are encoded.
    """
    plain = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2)
    features = predictor.features(pictures)
    # the median of a covered clip is another one: all its frames change
    framewise = predictor.sampling["background"] != "median"

    def ask(clip: Tensor) -> NDArray[np.float32]:
        new = (clip != plain).flatten(2).any(2) | (not framewise)  # (B, T)
        told = np.repeat(features[None], len(clip), axis=0)
        if framewise and new.any():
            told[new.numpy()] = predictor.features(clip[new].permute(0, 2, 3, 1).numpy())
        elif not framewise:
            told = np.stack([predictor.features(c.permute(0, 2, 3, 1).numpy()) for c in clip])
        return classify(predictor.model, list(told))

    return ask


def rollout(attentions: Tensor) -> Tensor:
    """How much of each input token reaches each token of the last layer: attentions
    (L, B, heads, N, N), rows summing to 1, first layer first -> (B, N, N), rows summing to 1.

    Heads are averaged, half of each layer is the residual connection, and the layers are
    multiplied (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3).
    """
    own = torch.eye(attentions.shape[-1], device=attentions.device)
    flow = own.expand(attentions.shape[1], -1, -1)
    for layer in attentions.float().mean(2):
        step = 0.5 * layer + 0.5 * own
        flow = step / step.sum(-1, keepdim=True) @ flow  # half precision's rows sum to nearly 1
    return flow


def attention_map(
    attentions: Tensor,
    grid: tuple[int, int, int],
    shape: tuple[int, ...],
    how: Literal["rollout", "last"] = "rollout",
    token: int | None = None,
) -> NDArray[np.float32]:
    """Attention laid on a clip: attentions (L, B, heads, N, N) over the N = T' H' W' tokens of
    `grid` (T', H', W'), time first, columns last -> float32 (B, T, H, W) for `shape` (T, H, W).
    1 is an equal share: what each token would have if all were looked at alike.

    "rollout" is the whole way through the layers, "last" what the last layer's tokens look at;
    either is averaged over the looking tokens, as a model that pools by the mean does, or is that
    of one `token`. Raises ValueError for a grid of another number of tokens.
    """
    tokens = attentions.shape[-1]
    if np.prod(grid) != tokens:
        raise ValueError(f"a grid of {grid} has {np.prod(grid)} tokens, the attentions {tokens}")
    looks = rollout(attentions) if how == "rollout" else attentions[-1].float().mean(1)
    row = looks.mean(1) if token is None else looks[:, token]
    share = tokens * row.reshape(-1, 1, *grid)
    return F.interpolate(share, tuple(shape), mode="trilinear")[:, 0].cpu().numpy()
