"""The Transformer learns order where pooling cannot, resumes exactly, and survives odd input."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidlib import checkpoints, probes, training
from vidlib.loop import Interrupted, warm_cosine
from vidlib.settings import TrainConfig, UserError
from vidlib.training import (
    calibrate,
    classify,
    pretrain_features,
    random_windows,
    train_classifier,
    windows,
)

CONFIG = TrainConfig(width=32, window=12, steps=60, batch=16, lr=3e-3)
CPU = torch.device("cpu")


def rising_or_falling(n: int = 60, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Features that go up or down along one direction: alike but for their order."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(9).normal(size=8)
    ramp = np.linspace(-1, 1, 14)[:, None] * direction
    wall = 3 * rng.normal(size=(n, 1, 8))  # a still offset, another for every clip
    noise = 0.1 * rng.normal(size=(n, 14, 8))
    labels = ["up" if i % 2 else "down" for i in range(n)]
    signs = np.array([1 if label == "up" else -1 for label in labels])[:, None, None]
    return list((signs * ramp + wall + noise).astype(np.float32)), labels


def test_order_is_learned_where_order_free_pooling_cannot() -> None:
    x, y = rising_or_falling()
    test_x, test_y = rising_or_falling(seed=1)
    model, actions, _ = train_classifier(x, y, CONFIG, device=CPU, progress=False)
    p = classify(model, test_x)
    assert probes.accuracy([actions[i] for i in p.argmax(1)], test_y) > 0.95
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    # reversed in time the answer turns round: it is the order that was learned
    back = classify(model, [f[::-1].copy() for f in test_x])
    assert probes.accuracy([actions[i] for i in back.argmax(1)], test_y) < 0.05
    pooled = probes.linear_probe(probes.pool(x), y, probes.pool(test_x))
    assert abs(probes.accuracy(pooled, test_y) - 0.5) < 0.2  # 3 standard errors of 60 coin flips


def test_a_resumed_training_equals_one_never_interrupted(tmp_path: Path) -> None:
    x, y = rising_or_falling(20)
    config, out = replace(CONFIG, steps=8), tmp_path / "classifier.pth"
    whole = train_classifier(x, y, config, device=CPU, progress=False)[0]
    with pytest.raises(Interrupted, match="after step 3"):
        train_classifier(x, y, config, out, device=CPU, stop_at=3, progress=False)
    meta = {"encoder_id": "e", "sampling": {}}
    done: list[float] = []
    resumed = train_classifier(
        x, y, config, out, meta, CPU, lambda r: done.append(r["step"]), progress=False
    )[0]
    assert done == list(range(4, 9))  # 2 steps an epoch: it went on, it did not begin again
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert [p.name for p in tmp_path.iterdir()] == ["classifier.pth"]


def test_windows_cover_every_frame_and_pad_short_clips() -> None:
    clips = [np.arange(n, dtype=np.float32)[:, None] for n in (1, 5, 12, 13, 40)]
    x, valid, owner, starts = windows(clips, 12, 6)
    assert x.shape[1:] == (12, 1) and len(x) == len(valid) == len(owner) == len(starts)
    for i, clip in enumerate(clips):
        seen = torch.cat([a[v] for a, v in zip(x[owner == i], valid[owner == i], strict=True)])
        assert set(seen.flatten().tolist()) == set(clip.flatten().tolist())


def test_random_windows_lie_inside_and_differ() -> None:
    clip = np.arange(100, dtype=np.float32)[:, None]
    x, valid = random_windows([clip] * 50, CONFIG, np.random.default_rng(0))
    lengths = valid.sum(1)
    assert lengths.min() >= round(12 * CONFIG.shortest) and lengths.max() == 12
    for row, keep in zip(x[..., 0], valid, strict=True):
        assert (row[keep].diff() == 1).all()
    assert len({row[0].item() for row in x}) > 20


def test_clips_of_one_frame_and_shorter_than_the_window_train() -> None:
    x, y = rising_or_falling(12)
    short = [f[: 1 + i % 3] for i, f in enumerate(x)]
    model, _, history = train_classifier(
        short, y, replace(CONFIG, steps=2), device=CPU, progress=False
    )
    assert np.isfinite(classify(model, short)).all() and np.isfinite(history[-1]["loss"])


def test_one_action_is_one_clear_error() -> None:
    x, _ = rising_or_falling(4)
    with pytest.raises(UserError, match="two actions"):
        train_classifier(x, ["up"] * 4, CONFIG)


def test_a_diverging_run_is_named() -> None:
    x, y = rising_or_falling(8)
    with pytest.raises(UserError, match="not finite"):
        train_classifier([f * np.float32("nan") for f in x], y, CONFIG, device=CPU, progress=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"smoothing": 0.6}, "too little"),
        ({"smoothing": 0.0, "steps": 600, "lr": 0.01}, "too much"),
    ],
)
def test_calibrated_probabilities_are_as_often_right_as_they_say(
    tmp_path: Path, changes: dict[str, float], told: str
) -> None:
    """Smoothing asks a model that is always right to doubt; coin flips for labels, learned by
    heart, leave it sure of what it cannot know."""
    x, truth = rising_or_falling(180)
    if told == "too much":
        truth = [("down", "up")[i] for i in np.random.default_rng(3).integers(2, size=180)]
    people, config = [f"p{i % 12}" for i in range(180)], replace(CONFIG, dropout=0.0, **changes)
    known = x[:120], truth[:120], config
    plain = train_classifier(*known, device=CPU, progress=False)[0]
    out, meta = tmp_path / "c.pth", {"encoder_id": "e", "sampling": {}}
    model = train_classifier(*known, out, meta, CPU, progress=False, people=people[:120])[0]
    before, after = classify(plain, x[120:]), classify(model, x[120:])
    assert (before.argmax(1) == after.argmax(1)).all()  # it changes how sure, never which
    right = np.mean([("down", "up")[i] == t
                     for i, t in zip(after.argmax(1), truth[120:], strict=True)])  # fmt: skip
    off = np.array([before.max(1).mean(), after.max(1).mean()]) - right
    # of 60 coin flips the share of heads spreads by 0.06
    assert abs(off[1]) < 0.13 and abs(off[1]) < abs(off[0])
    assert (off[0] < 0) == (model.temperature < 1) == (told == "too little")
    assert checkpoints.load_classifier(out, "e")[0].temperature == model.temperature


def test_a_stop_while_calibrating_loses_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> float:
        raise Interrupted("training stopped after step 1 of 8: nothing saved")

    x, y = rising_or_falling(20)
    config, out = replace(CONFIG, steps=8), tmp_path / "classifier.pth"
    people, meta = ["a", "b", "c", "d"] * 5, {"encoder_id": "e", "sampling": {}}
    with monkeypatch.context() as patch:
        patch.setattr(training, "calibrate", stopped)
        with pytest.raises(Interrupted, match="the training is kept"):
            train_classifier(x, y, config, out, meta, CPU, progress=False, people=people)
    assert not out.exists()
    done: list[float] = []
    model = train_classifier(
        x, y, config, out, meta, CPU, lambda r: done.append(r["step"]), progress=False,
        people=people,
    )[0]  # fmt: skip
    assert done == [] and model.temperature != 1
    assert [p.name for p in tmp_path.iterdir()] == ["classifier.pth"]


@pytest.mark.parametrize("people", [["a"] * 20, ["a"] * 10 + ["b"] * 10])
def test_nothing_is_calibrated_where_people_do_not_suffice(people: list[str]) -> None:
    x, _ = rising_or_falling(20)
    labels = ["up"] * 10 + ["down"] * 10  # each person, one action: no fold has both
    assert calibrate(x, labels, people, CONFIG, CPU, progress=False) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_the_rate_rises_once_to_its_peak_and_falls_to_nearly_nothing(steps: int) -> None:
    rates = np.array([warm_cosine(i, steps) for i in range(steps)])
    top = int(rates.argmax())
    assert rates[top] == pytest.approx(1) and (rates > 0).all()
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top + 1 :]) < 0).all()
    assert steps < 1000 or (top in (49, 50) and rates[-1] < 1e-4)  # a twentieth rises


# --------------------------------------------------------------------- masked pre-training


def test_hidden_frames_are_told_from_the_others_and_labels_start_from_there() -> None:
    x, y = rising_or_falling()
    state, history = pretrain_features(x, CONFIG, 150, 0.5, 1, device=CPU, progress=False)
    first, last = (np.mean([r["loss"] for r in part]) for part in (history[:10], history[-10:]))
    assert last < 0.5 * first
    short = replace(CONFIG, steps=1, lr=0.0)  # what it starts from, and no step away
    begun = train_classifier(x, y, short, device=CPU, progress=False, start=state)[0]
    bare = train_classifier(x, y, short, device=CPU, progress=False)[0]
    for name, value in begun.state_dict().items():
        if name.startswith("head."):
            assert torch.equal(value, bare.state_dict()[name]), name
        else:
            assert torch.equal(value, state[name]), name
    assert not torch.equal(begun.embed.weight, bare.embed.weight)


def test_a_resumed_masked_pre_training_equals_one_never_interrupted(tmp_path: Path) -> None:
    x, _ = rising_or_falling(20)
    out, how = tmp_path / "masked.pth", {"device": CPU, "progress": False}
    whole, _ = pretrain_features(x, CONFIG, 8, **how)
    with pytest.raises(Interrupted, match="masked pre-training stopped after step 3"):
        pretrain_features(x, CONFIG, 8, out=out, stop_at=3, **how)
    done: list[float] = []
    state, _ = pretrain_features(
        x, CONFIG, 8, out=out, on_step=lambda r: done.append(r["step"]), **how
    )
    assert done == list(range(4, 9))
    assert [p.name for p in tmp_path.iterdir()] == ["masked.pth"]
    kept, history = pretrain_features(x, CONFIG, 8, out=out, on_step=lambda r: 1 / 0, **how)
    for name, value in whole.items():
        assert torch.equal(value, state[name]) and torch.equal(value, kept[name]), name
    assert len(history) == 8 and "head.weight" not in state


def test_weights_that_began_otherwise_are_not_taken_for_these(tmp_path: Path) -> None:
    x, y = rising_or_falling(12)
    config, out, meta = replace(CONFIG, steps=2), tmp_path / "c.pth", {"encoder_id": "e"}
    keys = []
    for steps in (0, 1, 2):
        start = (
            pretrain_features(x, config, steps, device=CPU, progress=False)[0] if steps else None
        )
        train_classifier(x, y, config, out, meta, CPU, progress=False, start=start)
        keys.append(checkpoints.stored_key(out))
    assert len(set(keys)) == 3
    plain = checkpoints.key("train", asdict(config), y, [], checkpoints.arrays_key(x))
    assert keys[0] == plain  # files of before stay valid


def test_masked_pre_training_takes_clips_of_one_frame() -> None:
    x, _ = rising_or_falling(6)
    ones, history = pretrain_features(
        [f[:1] for f in x], CONFIG, 2, device=CPU, progress=False
    )  # nothing can be hidden
    assert [r["loss"] for r in history] == [0, 0]
    assert all(torch.isfinite(v).all() for v in ones.values())
