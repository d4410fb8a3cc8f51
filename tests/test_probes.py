"""Probes on features whose answer is known."""

import numpy as np
import pytest

from vidlib import probes


def blobs(n: int = 20, d: int = 8, gap: float = 6.0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(n, d)) + gap * np.eye(d)[k] for k in range(3)])
    return x.astype(np.float32), [name for name in "abc" for _ in range(n)]


@pytest.mark.parametrize("probe", [probes.knn, probes.linear_probe])
def test_probes_find_what_is_there_and_nothing_in_noise(probe) -> None:
    x, y = blobs()
    assert probes.accuracy(probe(x[::2], y[::2], x[1::2]), y[1::2]) > 0.95
    noise = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    labels = [c for c in "abc" for _ in range(100)]
    assert (
        abs(probes.accuracy(probe(noise[::2], labels[::2], noise[1::2]), labels[1::2]) - 1 / 3)
        < 0.12
    )  # fmt: skip  (chance, three standard errors of 150 draws)


def test_pool_knows_no_order() -> None:
    f = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(probes.pool([f]), probes.pool([f[::-1]]), atol=1e-6)
    assert probes.pool([f, f[:3]]).shape == (2, 8)


def test_neighbours_of_a_point_begin_with_itself() -> None:
    x, _ = blobs()
    assert (probes.neighbours(x, x[:5], 3)[:, 0] == np.arange(5)).all()


def test_tsne_keeps_blobs_apart() -> None:
    x, y = blobs()
    z = probes.tsne(x)
    assert z.shape == (60, 2)
    assert probes.accuracy(probes.knn(z[::2], y[::2], z[1::2], 3), y[1::2]) > 0.9


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tsne_of_a_few_clips_is_a_map_of_them(n: int) -> None:
    z = probes.tsne(blobs()[0][:n])
    assert z.shape == (n, 2) and np.isfinite(z).all()


def test_bootstrap_draws_people_not_clips() -> None:
    """Ten people, each always right or always wrong: clips would give a far narrower interval."""
    people = [f"p{i // 20}" for i in range(200)]
    correct = np.array([(i // 20) % 2 == 0 for i in range(200)])
    low, high = probes.bootstrap_by_person(correct, people)
    assert low <= 0.25 and high >= 0.75  # a binomial of 10 people: standard error 0.16
    by_clip = probes.bootstrap_by_person(correct, [str(i) for i in range(200)])
    assert by_clip[1] - by_clip[0] < 0.2
