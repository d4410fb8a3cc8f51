"""Covering finds the one place and time that counts; attention flows and is laid on the clip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidlib import checkpoints, encoders, explain, motion
from vidlib.predict import Predictor
from vidlib.temporal import TemporalTransformer

CLIP = np.random.default_rng(0).integers(100, 256, (8, 16, 20, 3)).astype(np.uint8)


def looks_at(t: int, y: int, x: int) -> explain.Ask:
    """A model whose answer rests on one pixel of one frame alone."""

    def ask(clip: Tensor) -> Tensor:
        p = clip[:, t, :, y, x].float().mean(1) / 255
        return torch.stack([1 - p, p], dim=1)

    return ask


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 7), st.integers(0, 15), st.integers(0, 19), st.integers(1, 7))
def test_covering_is_felt_where_the_model_looks_and_nowhere_else(
    t: int, y: int, x: int, batch: int
) -> None:
    box = (2, 4, 5)
    fall = explain.occlusion(looks_at(t, y, x), CLIP, action=1, box=box, cover=0, batch=batch)
    assert fall.shape == (8, 16, 20) and fall.dtype == np.float32
    # every box that covers the pixel takes all there is, and none that does not takes anything
    assert fall[t, y, x] == pytest.approx(fall.max()) == pytest.approx(CLIP[t, y, x].mean() / 255)
    near = np.zeros(fall.shape, bool)
    near[tuple(slice(max(0, i - s + 1), i + s) for i, s in zip((t, y, x), box, strict=True))] = True
    assert (fall[~near] == 0).all()


def test_the_other_actions_probability_rises() -> None:
    fall = [explain.occlusion(looks_at(3, 8, 8), CLIP, action=k, cover=0) for k in (0, 1)]
    np.testing.assert_allclose(fall[0], -fall[1], atol=1e-6)
    most = explain.occlusion(looks_at(3, 8, 8), np.full_like(CLIP, 255), cover=0)
    assert most.max() > 0  # asked for none, it asks for the most probable


def test_a_model_that_looks_at_nothing_has_a_map_of_zeros() -> None:
    fall = explain.occlusion(lambda clip: torch.full((len(clip), 3), 1 / 3), CLIP)
    assert (fall == 0).all()


def test_by_default_what_stands_still_is_covered_by_itself() -> None:
    still = np.repeat(CLIP[:1], 8, axis=0)
    assert (explain.occlusion(looks_at(3, 8, 8), still, action=1) == 0).all()
    moving = still.copy()
    moving[3, 8, 8] = 255
    assert explain.occlusion(looks_at(3, 8, 8), moving, action=1).max() > 0


@given(st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.integers(1, 40)] * 3),
       st.tuples(*[st.integers(1, 9)] * 3))  # fmt: skip
def test_boxes_cover_everything_and_keep_inside(
    shape: tuple[int, ...], box: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    stride = tuple(min(pair) for pair in zip(box, stride, strict=True))
    covered = np.zeros(shape, bool)
    for place in explain.boxes(shape, box, stride):
        covered[place] = True
        sides = [s.stop - s.start for s in place]
        assert all(s.start >= 0 for s in place)
        assert sides == [min(pair) for pair in zip(box, shape, strict=True)]
    assert covered.all()


# ------------------------------------------------------------------------------ the course's pair


@pytest.fixture(params=["follow", "median", "none"])
def predictor(request: pytest.FixtureRequest, tmp_path: Path) -> Predictor:
    """An untrained pair, for each kind of picture."""
    torch.manual_seed(0)
    encoder = encoders.build()
    sample = {"size": 32, "fps": 12.0, "background": request.param}
    meta = {"key": "k", "sampling": sample, "config": {}, "history": []}
    checkpoints.save_encoder(tmp_path / "e.pth", encoder, meta)
    model = TemporalTransformer(encoder.dim, 3, width=16, depth=1, window=8)
    about = {"classes": list("abc"), "encoder_id": encoders.identity(encoder)}
    checkpoints.save_classifier(tmp_path / "c.pth", model, meta | about)
    return Predictor(tmp_path / "e.pth", tmp_path / "c.pth", torch.device("cpu"))


def test_a_covered_clip_is_answered_as_if_encoded_whole(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDLIB_PRECISION", "float32")
    pictures = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    covered = pictures.copy()
    covered[2:5, 8:24, 8:24] = motion.ZERO
    ask = explain.asks(predictor, pictures)
    clip = torch.from_numpy(np.stack([pictures, covered])).permute(0, 1, 4, 2, 3)
    told = ask(clip)
    whole = [explain.classify(predictor.model, [predictor.features(p)])[0]
             for p in (pictures, covered)]  # fmt: skip
    # float32 sums over batches of other sizes differ in the last bits
    np.testing.assert_allclose(told, whole, atol=1e-5)
    assert np.abs(told[0] - told[1]).max() > 1e-4


def test_of_frames_that_stay_as_they_are_none_is_encoded_again(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = np.full((12, 32, 32, 3), motion.ZERO, np.uint8)
    pictures[4:8, 10:14, 10:14] = 255
    ask, encoded, encode = explain.asks(predictor, pictures), [], predictor.features
    monkeypatch.setattr(predictor, "features", lambda p: encoded.append(len(p)) or encode(p))
    box = 4, 16, 16
    fall = explain.occlusion(ask, pictures, box=box, stride=box, cover=motion.ZERO)
    if predictor.sampling["background"] == "median":
        assert sum(encoded) == 12 * 13  # the clip, and its 3 x 2 x 2 boxes
    else:
        assert sum(encoded) == 4  # of the one box that covers something
        assert (fall[:4] == 0).all() and (fall[:, 16:] == 0).all()
        assert (fall[4:8, :16, :16] != 0).all()


# -------------------------------------------------------------------------------------- attention


def attentions(seed: int, layers: int = 3, tokens: int = 12) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(layers, 2, 4, tokens, tokens, generator=rng).mul(3).softmax(-1)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 20))
def test_rows_of_a_rollout_sum_to_one(seed: int, layers: int, tokens: int) -> None:
    flow = explain.rollout(attentions(seed, layers, tokens))
    assert flow.shape == (2, tokens, tokens) and (flow >= 0).all()
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, tokens))


def test_a_rollout_follows_the_layers_in_their_order() -> None:
    """The first layer brings token 2 to token 1, the second brings 1 to 0: so 2 reaches 0."""
    moves = torch.eye(3).repeat(2, 1, 1, 1, 1)
    moves[0, 0, 0, 1] = torch.tensor([0.0, 0, 1])
    moves[1, 0, 0, 0] = torch.tensor([0.0, 1, 0])
    flow = explain.rollout(moves)[0]
    torch.testing.assert_close(flow[0], torch.tensor([0.5, 0.25, 0.25]))
    assert explain.rollout(moves.flip(0))[0, 0, 2] == 0


@pytest.mark.parametrize("how", ["rollout", "last"])
def test_attention_lands_on_its_token_in_space_and_time(how: str) -> None:
    a = torch.full((2, 1, 2, 24, 24), 0.1 / 23)
    a[..., 17] = 0.9  # all look at time 1, row 1, column 2 of (2, 3, 4): 12 + 4 + 1 = 17
    m = explain.attention_map(a, (2, 3, 4), (8, 30, 40), how)
    assert m.shape == (1, 8, 30, 40) and m.dtype == np.float32
    t, y, x = np.unravel_index(m[0].argmax(), m[0].shape)
    assert (t >= 4, 10 <= y < 20, 10 <= x < 20) == (True, True, True)


def test_one_tokens_attention_can_be_asked_for() -> None:
    a = torch.full((1, 1, 1, 24, 24), 1 / 24)
    a[..., 5, :] = 0
    a[..., 5, 17] = 1.0  # token 5 alone looks at 17
    m = [explain.attention_map(a, (2, 3, 4), (2, 3, 4), "last", token)[0] for token in (5, 6)]
    assert m[0][1, 1, 1] == pytest.approx(24) and m[0].sum() == pytest.approx(24)
    np.testing.assert_allclose(m[1], 1, 1e-5)


def test_a_model_that_would_learn_is_only_asked() -> None:
    weight = torch.ones(3, 2, requires_grad=True)

    def ask(clip: Tensor) -> Tensor:
        return (clip.float().mean((1, 3, 4)) @ weight / 1000).softmax(1).bfloat16()

    assert explain.occlusion(ask, CLIP).shape == CLIP.shape[:3] and weight.grad is None


def test_equal_attention_is_one_everywhere() -> None:
    a = torch.full((2, 1, 2, 24, 24), 1 / 24)
    for how in ("rollout", "last"):
        np.testing.assert_allclose(explain.attention_map(a, (2, 3, 4), (5, 9, 9), how), 1, 1e-5)


def test_a_grid_of_other_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="12 tokens, the attentions 24"):
        explain.attention_map(attentions(0, tokens=24), (1, 3, 4), (8, 16, 16))
