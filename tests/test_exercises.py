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
