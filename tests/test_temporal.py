"""Padding, order and centring in the Transformer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlib.temporal import MaskedFeatures, TemporalTransformer, center, hide, sincos

KINDS = [("sincos", "mean"), ("learned", "mean"), ("sincos", "cls"), ("learned", "cls")]


def model(positions: str = "sincos", pool: str = "mean", **options: bool) -> TemporalTransformer:
    torch.manual_seed(0)
    return TemporalTransformer(
        6, 3, width=16, depth=2, heads=2, window=12, positions=positions, pool=pool, **options
    ).eval()


@pytest.mark.parametrize(("positions", "pool"), KINDS)
@settings(deadline=None, max_examples=15)
@given(real=st.integers(1, 12), seed=st.integers(0, 1000))
def test_padding_never_changes_logits(positions: str, pool: str, real: int, seed: int) -> None:
    m = model(positions, pool)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 12, 6, generator=rng)
    valid = torch.zeros(2, 12, dtype=torch.bool)
    valid[:, :real] = True
    rubbish = torch.where(valid[..., None], x, 1e3 * torch.randn(2, 12, 6, generator=rng))
    full = m(x[:, :real], valid[:, :real])
    # float32 sums over other lengths differ in the last bits
    torch.testing.assert_close(m(rubbish, valid), full, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("positions", "pool"), KINDS)
def test_order_changes_logits(positions: str, pool: str) -> None:
    m = model(positions, pool)
    x, valid = torch.randn(2, 12, 6), torch.ones(2, 12, dtype=torch.bool)
    assert (m(x, valid) - m(x.flip(1), valid)).abs().max() > 1e-3


def test_centring_makes_a_still_offset_invisible_and_is_explicit() -> None:
    x, valid = torch.randn(2, 12, 6), torch.ones(2, 12, dtype=torch.bool)
    offset = torch.randn(2, 1, 6)
    on, off = model(center=True), model(center=False)
    torch.testing.assert_close(on(x, valid), on(x + offset, valid), atol=1e-4, rtol=1e-4)
    assert (off(x, valid) - off(x + offset, valid)).abs().max() > 1e-3


def test_center_uses_valid_frames_only() -> None:
    x = torch.tensor([[[1.0], [3.0], [100.0]]])
    valid = torch.tensor([[True, True, False]])
    assert center(x, valid).flatten().tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize(("positions", "pool"), KINDS)
def test_attention_is_a_distribution_over_valid_frames(positions: str, pool: str) -> None:
    valid = torch.arange(12)[None] < torch.tensor([[5], [12]])
    weights = model(positions, pool).attention(torch.randn(2, 12, 6), valid)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert (weights >= 0).all() and (weights[~valid] == 0).all()


def test_positions_match_the_formula() -> None:
    table = sincos(5, 8)
    assert table.shape == (5, 8)
    angle = torch.tensor(3 / 10_000 ** (2 / 8))
    torch.testing.assert_close(table[3, 2:4], torch.stack([angle.sin(), angle.cos()]))


def test_fit_scale_brings_features_to_unit_size() -> None:
    m = model()
    x, valid = 50 * torch.randn(8, 12, 6), torch.ones(8, 12, dtype=torch.bool)
    m.fit_scale(x, valid)
    assert m.prepare(x, valid).std().item() == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------------------- hidden frames


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.floats(0.05, 0.95),
       st.integers(1, 6), st.integers(0, 1000))  # fmt: skip
def test_the_share_of_the_valid_frames_is_hidden_and_one_is_seen(
    lengths: list[int], share: float, run: int, seed: int
) -> None:
    valid = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    hidden = hide(valid, share, run, torch.Generator().manual_seed(seed))
    assert not (hidden & ~valid).any()
    for length, count in zip(lengths, hidden.sum(1).tolist(), strict=True):
        assert count == min(max(1, round(share * length)), length - 1)


def test_frames_are_hidden_in_runs_at_places_that_differ() -> None:
    valid = torch.ones(200, 12, dtype=torch.bool)
    hidden = hide(valid, 0.5, 3, torch.Generator().manual_seed(0))
    starts = hidden & ~torch.cat([torch.zeros(200, 1, dtype=torch.bool), hidden[:, :-1]], dim=1)
    assert (starts.sum(1) <= 2).all()  # six of twelve in runs of three
    assert (hidden.float().mean(0) - 0.5).abs().max() < 0.15  # 4 standard errors of 200 draws


@pytest.mark.parametrize(("positions", "pool"), KINDS)
@pytest.mark.parametrize("centred", [True, False])
def test_what_is_hidden_never_reaches_the_prediction(
    positions: str, pool: str, centred: bool
) -> None:
    masked = MaskedFeatures(model(positions, pool, center=centred)).eval()
    x, valid = torch.randn(2, 12, 6), torch.arange(12)[None] < torch.tensor([[9], [12]])
    hidden = hide(valid, 0.5, 2, torch.Generator().manual_seed(0))
    other = torch.where(hidden[..., None], torch.randn(2, 12, 6), x)
    told, true = masked(x, valid, hidden)
    again, truly = masked(other, valid, hidden)
    assert told.shape == true.shape == (int(hidden.sum()), 6)
    torch.testing.assert_close(told, again)
    assert (true - truly).abs().max() > 0.1
    # what is seen does reach it
    moved = masked(x + valid[..., None] * torch.randn(2, 12, 6), valid, hidden)[0]
    assert (told - moved).abs().max() > 1e-3
