"""The exercises' checks: a stub is told, not raised; usual mistakes are named; the answer is ok."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vidlib import exercises

CHECKS = [getattr(exercises, name) for name in dir(exercises) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("stub", [None, ..., lambda *_, **__: None, lambda *_, **__: ..., 1 / 3])
def test_a_stub_is_told_not_raised(
    check: Callable[[Any], bool], stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(stub) is False
    said = capsys.readouterr().out
    assert said.startswith("not yet: ") and said.count("\n") == 1


def says(check: Callable[[Any], bool], answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    ok = check(answer)
    said = capsys.readouterr().out
    assert ok is said.startswith("ok: ")
    return said


# --- 05, predict ---------------------------------------------------------------------------------


def spans(times: Any, p: Any, actions: list[str]) -> list[tuple[float, float, str]]:
    best = p.argmax(1)
    first = np.flatnonzero(np.diff(best, prepend=-1))
    ends = [*times[first[1:], 0], times[-1, 1]]
    return [(times[i, 0], end, actions[best[i]]) for i, end in zip(first, ends, strict=True)]


def test_spans(capsys: pytest.CaptureFixture[str]) -> None:
    assert says(exercises.check_spans, spans, capsys).startswith("ok")
    for wrong, hint in [
        (lambda t, p, a: [(s, e, a[q.argmax()]) for (s, e), q in zip(t, p, strict=True)], "join"),
        (lambda t, p, a: [(0, 6.5, "waving"), (2, 3, "running")], "comes back"),
        (lambda t, p, a: [(0, 3, "waving"), (2, 4, "running"), (3, 6.5, "waving")], "overlap"),
        (lambda t, p, a: [(0, 2, "waving"), (2, 3, "running"), (3, 6, "waving")], "expected"),
        (lambda t, p, a: [(0, 6.5, "boxing")], "in turn"),
        (lambda t, p, a: t[99], "IndexError"),
    ]:
        assert hint in says(exercises.check_spans, wrong, capsys)


def selective(p: Any, true: list[str], actions: list[str], threshold: float) -> tuple[float, float]:
    sure = p.max(1) >= threshold
    right = np.array([actions[i] for i in p.argmax(1)]) == np.array(true)
    return sure.mean(), right[sure].mean() if sure.any() else np.nan


def test_selective(capsys: pytest.CaptureFixture[str]) -> None:
    assert says(exercises.check_selective, selective, capsys).startswith("ok")

    def over_all(p: Any, true: Any, actions: Any, threshold: float) -> tuple[float, float]:
        share, accuracy = selective(p, true, actions, threshold)
        return share, accuracy * share

    def never_nan(p: Any, true: Any, actions: Any, threshold: float) -> tuple[float, float]:
        share, accuracy = selective(p, true, actions, threshold)
        return share, 0.0 if np.isnan(accuracy) else accuracy

    for wrong, hint in [
        (lambda p, t, a, h: selective(p, t, a, h + 1e-9), ">="),
        (over_all, "divide by 3"),
        (never_nan, "nan"),
        (lambda *_: (0.9, 0.5), "3 of 4"),
        (lambda *_: (0.75, 0.9), "2 of the 3"),
    ]:
        assert hint in says(exercises.check_selective, wrong, capsys)


# --- 03, see what it learned ---------------------------------------------------------------------


def few_labels(labels: list[str], count: int, seed: int) -> Any:
    rng, names = np.random.default_rng(seed), np.array(labels)
    each = [rng.choice(np.flatnonzero(names == a), count, False) for a in sorted(set(labels))]
    return np.concatenate(each)


def test_few_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert says(exercises.check_few_labels, few_labels, capsys).startswith("ok")

    def first(labels: list[str], count: int, seed: int) -> Any:
        return np.concatenate([np.flatnonzero(np.array(labels) == a)[:count] for a in set(labels)])

    luck = np.random.default_rng(0)
    for wrong, hint in [
        (lambda n, c, s: np.random.default_rng(s).choice(len(n), c, False), "of each action"),
        (lambda n, c, s: np.arange(c * len(set(n))), "4 of each"),
        (lambda n, c, s: np.repeat(few_labels(n, 1, s), c), "twice"),
        (lambda n, c, s: few_labels(n, c, int(luck.integers(10**6))), "same seed"),
        (first, "another seed"),
        (lambda n, c, s: few_labels(n, c, s) / 2, "whole numbers"),
        (lambda n, c, s: few_labels(n, c * 1000, s), "ValueError"),
    ]:
        assert hint in says(exercises.check_few_labels, wrong, capsys)


def neighbours_elsewhere(v: Any, people: list[str], k: int, sign: int = -1, unit: Any = 1) -> Any:
    unit = v / np.linalg.norm(v, axis=1, keepdims=True) if unit else v
    cosine = unit @ unit.T
    cosine[np.equal.outer(people, people)] = np.inf * sign
    return np.argsort(sign * cosine, axis=1)[:, :k]


def test_neighbours_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_neighbours_elsewhere
    assert says(check, neighbours_elsewhere, capsys).startswith("ok")
    for wrong, hint in [
        (lambda v, p, k: neighbours_elsewhere(v, list(range(len(v))), k), "same person"),
        (lambda v, p, k: np.arange(len(v))[:, None] + np.zeros(k, int), "own neighbour"),
        (lambda v, p, k: neighbours_elsewhere(v, p, k)[:, ::-1], "another order"),
        (lambda v, p, k: neighbours_elsewhere(v, p, k, sign=1), "farthest"),
        (lambda v, p, k: neighbours_elsewhere(v, p, k, unit=0), "length"),
        (lambda v, p, k: neighbours_elsewhere(v, p, k).T, "shape"),
    ]:
        assert hint in says(check, wrong, capsys)


# --- 04, train the Transformer -------------------------------------------------------------------


def masked_pool(x: Any, valid: Any, over: Any = None) -> Any:
    keep = valid[..., None]
    count = keep.sum(1) if over is None else over
    mean = np.where(keep, x, 0).sum(1) / count
    variance = np.where(keep, (x - mean[:, None]) ** 2, 0).sum(1) / count
    return np.concatenate([mean, np.sqrt(variance)], 1)


def test_masked_pool(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_masked_pool
    assert says(check, masked_pool, capsys).startswith("ok")

    def half(x: Any, valid: Any, spread: Any) -> Any:
        return np.concatenate([masked_pool(x, valid)[:, : x.shape[2]], spread], 1)

    def by_zeros(x: Any, valid: Any) -> Any:
        return masked_pool(x, (x != 0).all(2))

    for wrong, hint in [
        (lambda x, v: masked_pool(x, v, x.shape[1]), "the mean counts"),
        (lambda x, v: masked_pool(x, np.ones_like(v)), "the mean counts"),
        (lambda x, v: half(x, v, x.std(1)), "the spread counts"),
        (lambda x, v: half(x, v, masked_pool(x, v)[:, x.shape[2] :] ** 2), "square root"),
        (lambda x, v: half(x, v, np.ones((3, 5))), "spread (np.std)"),
        (lambda x, v: masked_pool(x, v) + 1, "first half"),
        (by_zeros, "padding"),
        (lambda x, v: x.mean(1), "shape"),
    ]:
        assert hint in says(check, wrong, capsys)


def test_shuffled(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_shuffled

    def shuffled(x: Any, seed: int) -> Any:
        return np.random.default_rng(seed).permutation(x)

    def in_place(x: Any, seed: int) -> Any:
        np.random.default_rng(seed).shuffle(x)
        return x

    luck = np.random.default_rng(0)
    assert says(check, shuffled, capsys).startswith("ok")
    for wrong, hint in [
        (in_place, "a copy"),
        (lambda x, s: np.random.default_rng(s).permuted(x, axis=0), "whole rows"),
        (lambda x, s: np.random.default_rng(s).choice(x, len(x)), "twice"),
        (lambda x, s: x[::-1], "old order"),
        (lambda x, s: shuffled(x, int(luck.integers(10**6))), "same seed"),
        (lambda x, s: shuffled(x, 7), "every seed"),
        (lambda x, s: shuffled(x, s)[:5], "shape"),
    ]:
        assert hint in says(check, wrong, capsys)


# --- 07, better pre-training ---------------------------------------------------------------------


def partners(at: Any, length: int, gap: float, fps: float) -> Any:
    apart = round(gap * fps)
    moved = np.where(at + apart < length, at + apart, at - apart)
    return np.clip(moved, 0, length - 1)


def test_partners(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_partners
    assert says(check, partners, capsys).startswith("ok")

    def in_place(at: Any, length: int, gap: float, fps: float) -> Any:
        at[:] = partners(at, length, gap, fps)
        return at

    for wrong, hint in [
        (lambda at, n, gap, fps: at, "its own partner: 0.25 s"),
        (lambda at, n, gap, fps: at + gap * fps, "whole numbers"),
        (lambda at, n, gap, fps: at + round(gap * fps), "last"),
        (lambda at, n, gap, fps: np.minimum(at + round(gap * fps), n - 1), "cut off"),
        (lambda at, n, gap, fps: np.abs(at - round(gap * fps)), "later frame is wanted"),
        (lambda at, n, gap, fps: partners(at, n, 2 * gap, fps), "expected [3"),
        (lambda at, n, gap, fps: partners(at, n, gap, 12), "use fps"),
        (lambda at, n, gap, fps: np.where(
            at + (d := round(gap * fps)) < n, at + d, at - d), "stay inside"),
        (lambda at, n, gap, fps: partners(at, n, max(gap, 0.2), fps), "without a gap"),
        (lambda at, n, gap, fps: partners(at, n, gap, fps)[:2], "shape"),
        (in_place, "have changed"),
    ]:  # fmt: skip
        assert hint in says(check, wrong, capsys)


def mirrored(x: Any, rng: Any, dim: int = -1, p: float = 0.5, each: tuple[int, ...] = (0,)) -> Any:
    import torch

    shape = [x.shape[d] if d in each else 1 for d in range(x.ndim)]
    return torch.where(torch.rand(shape, generator=rng) < p, x.flip(dim), x)


def test_mirrored(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    check = exercises.check_mirrored
    assert says(check, mirrored, capsys).startswith("ok")
    other = torch.Generator().manual_seed(1)
    for wrong, hint in [
        (lambda x, rng: mirrored(x, rng, each=(0, 1)), "looks like motion"),
        (lambda x, rng: mirrored(x, rng, each=(1,)), "looks like motion"),
        (lambda x, rng: mirrored(x, rng, each=()), "one fate"),
        (lambda x, rng: x, "one fate"),
        (lambda x, rng: mirrored(x, rng, dim=1), "backwards"),
        (lambda x, rng: mirrored(x, rng, dim=-2), "heads"),
        (lambda x, rng: mirrored(x, rng) + 1, "neither"),
        (lambda x, rng: mirrored(x, rng, p=0.9), "about half"),
        (lambda x, rng: mirrored(x, other), "same generator"),
        (lambda x, rng: mirrored(x, torch.Generator().manual_seed(2)), "every seed"),
        (lambda x, rng: x.mul_(2), "have changed"),
        (lambda x, rng: mirrored(x, rng)[:, 0], "shape"),
    ]:
        assert hint in says(check, wrong, capsys)


# --- 02, pre-train with SimSiam ------------------------------------------------------------------


def cosine(p: Any, z: Any) -> Any:
    return (p * z).sum(1) / (p.norm(dim=1) * z.norm(dim=1))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, z: -cosine(p, z.detach()).mean(), "ok"),
        (lambda p, z: cosine(p, z.detach()).mean(), "the sign"),
        (lambda p, z: -cosine(p, z.detach()), "one number"),
        (lambda p, z: -cosine(p, z).mean(), "flows into z"),
        (lambda p, z: -cosine(p.detach(), z).mean(), "no gradient flows into p"),
        (lambda p, z: -(p * z.detach()).sum(1).mean(), "divide"),
    ],
)
def test_loss(answer: Any, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in says(exercises.check_loss, answer, capsys)


def unit(z: Any) -> Any:
    return z / z.norm(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda z: unit(z).std(0).mean() * z.shape[1] ** 0.5, "ok"),
        (lambda z: z.std(0).mean() * z.shape[1] ** 0.5, "length 1"),
        (lambda z: unit(z).std(0).mean(), "sqrt(d)"),
        (lambda z: unit(z).std(1).mean() * z.shape[1] ** 0.5, "not yet"),
    ],
)
def test_collapse(answer: Any, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in says(exercises.check_collapse, answer, capsys)


# --- 06, real videos -----------------------------------------------------------------------------


def sides(lines: list[str]) -> tuple[list[str], list[str]]:
    rows = [line.split() for line in lines if line.strip()]
    return [n for n, tag in rows if tag == "1"], [n for n, tag in rows if tag == "2"]


def test_sides(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_sides
    assert says(check, sides, capsys).startswith("ok")

    def by_end(lines: list[str]) -> tuple[list[str], list[str]]:
        return [n for n in lines if n.strip().endswith("1")], [n for n in lines if n[-1:] == "2"]

    def not_one(lines: list[str]) -> tuple[list[str], list[str]]:
        rows = [line.split() for line in lines if line]
        return [n for n, tag in rows if tag == "1"], [n for n, tag in rows if tag != "1"]

    def empty_too(lines: list[str]) -> tuple[list[str], list[str]]:
        train, test = sides(lines)
        return train, [*test, ""]

    for wrong, hint in [
        (lambda lines: sides(lines)[::-1], "exchanged"),
        (not_one, "neither side"),
        (by_end, "split()"),
        (empty_too, "empty line"),
        (lambda lines: sides(lines[::-1]), "another order"),
        (lambda lines: sides(lines[:3]), "got 2 and 1"),
        (lambda lines: dict(line.split() for line in lines), "ValueError"),
    ]:
        assert hint in says(check, wrong, capsys)


def films(names: list[str], first: int = 1, last: int = 3) -> list[str]:
    return ["_".join(name.split("_")[first:last]) for name in names]


def test_shared_films(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_shared_films
    assert says(check, lambda a, b: sorted({*films(a)} & {*films(b)}), capsys).startswith("ok")
    for wrong, hint in [
        (lambda a, b: {*films(a, 2)} & {*films(b, 2)}, "two films"),
        (lambda a, b: [f for f in films(b) if f[-3:] in {*films(a, 2)}], "two films"),
        (lambda a, b: {*films(a, 1, 2)} & {*films(b, 1, 2)}, "every action"),
        (lambda a, b: {*a} & {*b}, "no clip is on both sides"),
        (lambda a, b: [f for f in films(b) if f in films(a)], "once"),
        (lambda a, b: sorted({*films(a)} & {*films(b)}, reverse=True), "sort"),
        (lambda a, b: sorted({*films(a)} & {*films(b)})[:1], "expected"),
        (lambda a, b: a[99], "IndexError"),
    ]:
        assert hint in says(check, wrong, capsys)


# --- 01, look at the data ------------------------------------------------------------------------


def energy(frames: Any) -> Any:
    return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3))


def test_energy(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_energy
    assert says(check, energy, capsys).startswith("ok")
    for wrong, hint in [
        (lambda f: np.abs(np.diff(f, axis=0)).mean((1, 2, 3)), "has no negative"),
        (lambda f: np.diff(f, axis=0).astype(int).mean((1, 2, 3)), "has no negative"),
        (lambda f: np.diff(f.astype(float), axis=0).mean((1, 2, 3)), "cancel out"),
        (lambda f: np.abs(np.diff(f.astype(float), axis=0).mean((1, 2, 3))), "cancel out"),
        (lambda f: energy(f).mean(), "not one for the clip"),
        (lambda f: np.append(energy(f), 0), "have 4 changes"),
        (lambda f: energy(f) / 255, "expected"),
        (lambda f: f[99], "IndexError"),
    ]:
        assert hint in says(check, wrong, capsys)


def hold_out(people: list[str], fraction: float, seed: int, least: int = 1) -> Any:
    names = sorted(set(people))
    count = max(least, round(fraction * len(names)))
    return np.isin(people, np.random.default_rng(seed).choice(names, count, replace=False))


def test_hold_out(capsys: pytest.CaptureFixture[str]) -> None:
    check = exercises.check_hold_out
    assert says(check, hold_out, capsys).startswith("ok")
    fresh = np.random.default_rng(0)
    for wrong, hint in [
        (lambda p, f, s: np.random.default_rng(s).random(len(p)) < f, "both sides"),
        (lambda p, f, s: hold_out(p, f, 0), "every seed"),
        (lambda p, f, s: hold_out(p, f, int(fresh.integers(10**9))), "the same seed"),
        (lambda p, f, s: hold_out(p, f, s, least=0), "at least one person"),
        (lambda p, f, s: hold_out(p, 2 * f, s), "not 4"),
        (lambda p, f, s: np.flatnonzero(hold_out(p, f, s)), "array (N,) of bool"),
        (lambda p, f, s: sorted(set(p))[:2], "array (N,) of bool"),
    ]:
        assert hint in says(check, wrong, capsys)
