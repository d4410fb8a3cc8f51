"""The loss against a float64 reference, the stopped branch, the collapse measure."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidlib.simsiam import SimSiam, collapse_measure, negative_cosine, summary


def tiny(**options: float) -> SimSiam:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8))
    return SimSiam(encoder, 8, hidden=16, bottleneck=4, **options)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(2, 64), st.integers(0, 10_000))
def test_loss_equals_a_float64_reference(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, z = rng.normal(size=(2, n, d))
    reference = -np.mean(
        [np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(p, z, strict=True)]
    )
    ours = negative_cosine(torch.tensor(p, dtype=torch.float32), torch.tensor(z).float()).item()
    assert ours == pytest.approx(reference, abs=2e-6)  # float32 rounding of a mean of cosines
    assert -1 - 1e-6 <= ours <= 1 + 1e-6


def test_no_gradient_flows_through_the_stopped_branch() -> None:
    p, z = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    negative_cosine(p, z).backward()
    assert p.grad is not None and p.grad.abs().sum() > 0
    assert z.grad is None


def test_stop_gradient_off_lets_it_through_in_the_model() -> None:
    """With the predictor's last layer at 0 the stopped loss has no gradient for the encoder; the
    unstopped one neither has from p, but z's branch is open once p is not 0."""
    a, b = torch.randn(6, 2, 3, 4, 4), torch.randn(6, 2, 3, 4, 4)
    grads = []
    for stop in (True, False):
        model = tiny(stop_gradient=stop)
        loss, _ = model(a, b)
        loss.backward()
        grads.append(model.encoder[1].weight.grad.clone())
    assert not torch.allclose(grads[0], grads[1], atol=1e-6)


def test_loss_is_symmetric_and_the_forward_uses_both_halves() -> None:
    model = tiny().eval()
    a, b = torch.randn(6, 2, 3, 4, 4), torch.randn(6, 2, 3, 4, 4)
    assert model(a, b)[0].item() == pytest.approx(model(b, a)[0].item(), abs=1e-6)


def test_centring_removes_whatever_is_the_same_in_all_frames_of_a_view() -> None:
    """A constant added to every frame's feature (a wall) changes nothing after centring."""
    model = tiny(center=True).eval()
    model.encoder = nn.Sequential(nn.Flatten())
    view = torch.randn(3, 4, 3, 4, 4)
    wall = torch.randn(3, 1, 3, 4, 4)
    a, b = (model.what_moves(model.features(v)) for v in (view, view + wall))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_the_clips_loss_sees_the_mean_that_centring_removes_and_no_order() -> None:
    """A wall changes the summary; frames in another order do not; a still clip has a gradient."""
    f = torch.randn(3, 4, 8)
    torch.testing.assert_close(summary(f), summary(f.flip(1)), atol=1e-6, rtol=0)
    torch.testing.assert_close(summary(f + 2)[:, :8], summary(f)[:, :8] + 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(summary(f)[:, 8:], f.std(1, correction=0), atol=1e-5, rtol=0)
    still = torch.ones(3, 4, 8, requires_grad=True)
    summary(still).sum().backward()
    assert still.grad is not None and torch.isfinite(still.grad).all()


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_clips_loss_is_added_with_its_weight(weight: float) -> None:
    model = tiny(clip_loss=weight)
    a, b = torch.randn(6, 2, 3, 4, 4), torch.randn(6, 2, 3, 4, 4)
    h1, h2 = model.features(a), model.features(b)
    parts = (
        model.frames(model.what_moves(h1), model.what_moves(h2))[0],
        model.clips(summary(h1), summary(h2))[0],
    )
    assert model(a, b)[0].item() == pytest.approx((parts[0] + weight * parts[1]).item(), abs=1e-5)
    assert tiny(clip_loss=0.0).clips is None


def test_projector_and_predictor_are_the_papers() -> None:
    model = tiny()
    last = list(model.frames.projector)[-1]
    assert isinstance(last, nn.BatchNorm1d) and last.weight is None and last.bias is None
    assert isinstance(
        list(model.frames.predictor)[-1], nn.Linear
    )  # no norm at the predictor's output


def test_collapse_measure_is_one_for_noise_and_zero_for_a_constant() -> None:
    torch.manual_seed(0)
    assert collapse_measure(torch.randn(4096, 64)) == pytest.approx(1, abs=0.02)
    assert collapse_measure(torch.ones(64, 16)) == pytest.approx(0, abs=1e-6)
