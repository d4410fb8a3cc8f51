"""Measures on answers whose score is known; leave-one-person-out never trains on the person."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vidlib import evaluation
from vidlib.catalog import Clip
from vidlib.evaluation import Outcome
from vidlib.settings import PretrainConfig, TrainConfig, UserError, profile

ANSWERS = Outcome(
    actions=["a", "b", "c"],
    true=["a", "a", "b", "b", "c"],
    predicted=["a", "b", "b", "b", "a"],
    people=["p", "q", "p", "q", "p"],
)


def test_accuracy_confusion_and_report() -> None:
    assert ANSWERS.accuracy == pytest.approx(3 / 5)
    np.testing.assert_array_equal(ANSWERS.confusion(), [[1, 1, 0], [0, 2, 0], [1, 0, 0]])
    report = ANSWERS.report()
    assert "accuracy 60.0% (3 of 5 clips)" in report and "people: 2" in report
    row = next(line for line in report.splitlines() if line.startswith("b "))
    assert row.split() == ["b", "100%", "67%", "2"]
    low, high = ANSWERS.interval
    assert low <= ANSWERS.accuracy <= high


def test_one_person_has_no_interval() -> None:
    assert "no interval" in replace(ANSWERS, people=["p"] * 5).report()


def test_each_person_is_tested_once_by_models_that_never_saw_them(
    quick_clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str | None], set[str | None]]] = []

    def fake_pretrain(clips: Sequence[Clip], config: PretrainConfig, *_: Any) -> tuple[str, list]:
        seen.append(({c.person for c in clips}, set()))
        return "encoder", []

    def fake_test(encoder: str, sample: dict, train: Sequence[Clip], val: Sequence[Clip],
                  *_: Any, **__: Any) -> dict[str, Outcome]:  # fmt: skip
        seen.append(({c.person for c in train}, {c.person for c in val}))
        return {"transformer": evaluation.outcome(val, [str(c.action) for c in val], [])}

    monkeypatch.setattr(evaluation, "pretrain", fake_pretrain)
    monkeypatch.setattr(evaluation, "test", fake_test)
    monkeypatch.setattr(evaluation, "untrained", lambda config: "untrained")
    quick = profile("quick")
    outcomes = evaluation.leave_one_person_out(
        quick_clips, PretrainConfig.of(quick), TrainConfig.of(quick), say=lambda text: None
    )
    people = {c.person for c in quick_clips}
    tested = [val for _, val in seen if val]
    assert len(tested) == 2 * len(people)  # pre-trained and untrained
    for train, val in seen:
        assert len(train) == len(people) - 1 and not train & val
    assert set.union(*tested) == people
    joined = outcomes["pretrained"][0]["transformer"]
    assert len(joined.true) == len(quick_clips) and joined.accuracy == 1


def test_a_given_encoder_serves_every_fold_and_nothing_is_pretrained(
    quick_clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def fake_test(encoder: str, sample: dict, train: Sequence[Clip], val: Sequence[Clip],
                  *_: Any, **__: Any) -> dict[str, Outcome]:  # fmt: skip
        used.append(encoder)
        return {"transformer": evaluation.outcome(val, [str(c.action) for c in val], [])}

    monkeypatch.setattr(evaluation, "pretrain", None)  # a call would fail
    monkeypatch.setattr(evaluation, "test", fake_test)
    monkeypatch.setattr(evaluation, "untrained", lambda config: "untrained")
    quick = profile("quick")
    evaluation.leave_one_person_out(
        quick_clips, PretrainConfig.of(quick), TrainConfig.of(quick), seeds=(0, 1),
        say=lambda text: None, encoder="given",
    )  # fmt: skip
    folds = 2 * len({c.person for c in quick_clips})
    assert used == ["given", "untrained"] * folds


def test_any_folds_run_once_a_seed_and_are_joined(
    quick_clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def fake_pretrain(clips: Sequence[Clip], *_: Any) -> tuple[str, list]:
        trained.append(list(clips))
        return "encoder", []

    def fake_test(encoder: str, sample: dict, train: Sequence[Clip], val: Sequence[Clip],
                  *_: Any, **__: Any) -> dict[str, Outcome]:  # fmt: skip
        return {"transformer": evaluation.outcome(val, ["?"] * len(val), [])}

    monkeypatch.setattr(evaluation, "pretrain", fake_pretrain)
    monkeypatch.setattr(evaluation, "test", fake_test)
    monkeypatch.setattr(evaluation, "untrained", lambda config: "untrained")
    a, b, c, d = (replace(c, action=("x", "y")[i % 2]) for i, c in enumerate(quick_clips[:4]))
    folds = [("one", [a, b], [c]), ("two", [c, b], [a, d])]
    said: list[str] = []
    quick = profile("quick")
    outcomes = evaluation.over_folds(
        iter(folds), PretrainConfig.of(quick), TrainConfig.of(quick), (3, 4), say=said.append
    )
    assert trained == [[a, b], [c, b]] * 2  # never a test clip, and an iterator serves every seed
    assert [line.split(":")[0] for line in said] == [
        f"seed {seed}, {name}" for seed in (3, 4) for name in ("one", "two")
    ]
    for seeds in outcomes.values():
        assert [o["transformer"].true for o in seeds] == [[c.action, a.action, d.action]] * 2


def test_unknown_people_are_refused(quick_clips: Sequence[Clip]) -> None:
    bare = [replace(c, person=None) for c in quick_clips]
    quick = profile("quick")
    with pytest.raises(UserError, match="known person"):
        evaluation.leave_one_person_out(bare, PretrainConfig.of(quick), TrainConfig.of(quick))
