"""Data that trainings break on: said before hours are spent on it, or taken as it is."""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidlib import catalog, checkpoints, cli, encoders, evaluation, loop, probes, video
from vidlib.catalog import Clip
from vidlib.endtoend import train_together
from vidlib.evaluation import to_test
from vidlib.features import extract_features
from vidlib.predict import Predictor
from vidlib.pretraining import pretrain
from vidlib.settings import PretrainConfig, TrainConfig, UserError
from vidlib.training import classify, pretrain_features, train_classifier
from vidlib.tubelets import Config
from vidlib.videomae_loops import MaskConfig, TuneConfig, finetune_videomae, pretrain_videomae

CPU = torch.device("cpu")
PRE = PretrainConfig(size=32, steps=2, batch_clips=2, hidden=16, bottleneck=8)
TRAIN = TrainConfig(width=8, depth=1, heads=2, window=8, steps=3, batch=4)
TINY = Config(32, 4, 16, 2, 16, 1, 2, 32, 16, 1, 2, 32, stride=1, fps=8.0)
HOW = {"device": CPU, "progress": False}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Clip]]:
    """Clips of random pictures, so many frames each, of the actions given."""
    folder = tmp_path_factory.mktemp("films")

    def make(frames: int, *actions: str | None) -> list[Clip]:
        rng, clips = np.random.default_rng(frames), []
        for i, action in enumerate(actions):
            path = folder / f"{frames}_{i}.webm"
            if not path.exists():
                pictures = rng.integers(0, 256, (frames, 40, 48, 3), np.uint8)
                video.write_video(path, pictures, 12)
            clips.append(Clip(path, action, f"p{i % 3}"))
        return clips

    return make


def some_features(n: int = 6, length: int = 9) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(length, 8)).astype(np.float32) for _ in range(n)]
    return x, [("a", "b")[i % 2] for i in range(n)]


# -- losses that explode --


def test_a_rate_that_explodes_is_named_in_every_training(
    films: Callable[..., list[Clip]], tmp_path: Path
) -> None:
    clips, (x, y) = films(6, "a", "b", "a", "b"), some_features()
    fast, out = {"lr": 1000.0, "weight_decay": 1000.0}, tmp_path / "out.pth"
    train, small = replace(TRAIN, **fast, steps=30), {"steps": 30, "batch": 2}
    for run in (
        lambda: train_classifier(x, y, train, out, **HOW),
        lambda: pretrain_features(x, train, 30, out=out, **HOW),
        lambda: pretrain(clips, replace(PRE, **fast, steps=30), out, **HOW),
        lambda: train_together(clips, PRE, train, 30, out=out, batch=2, **HOW),
        lambda: pretrain_videomae(clips, TINY, MaskConfig(**small, **fast), out, **HOW),
        lambda: finetune_videomae(clips, TINY, TuneConfig(**small, **fast), out, **HOW),
    ):
        with pytest.raises(UserError, match="not finite|the loss rose from") as caught:
            run()
        assert "smaller" in str(caught.value)
        assert not list(tmp_path.iterdir())  # nothing that could be taken for weights


def test_a_last_step_that_explodes_is_named(tmp_path: Path) -> None:
    """The loss before it was a number."""
    model = torch.nn.Linear(1, 1)

    def step(i: int) -> dict[str, float]:
        torch.nn.init.constant_(model.weight, torch.inf)
        return {"loss": 1.0}

    with pytest.raises(UserError, match="last step .* not finite: try a smaller"):
        loop.run("training", 1, step, {"model": model}, "k", tmp_path / "c.pth", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("kind", [PretrainConfig, TrainConfig, MaskConfig, TuneConfig])
def test_rates_that_no_run_survives_are_refused(kind: type, name: str) -> None:
    for value in (1e30, float("inf"), float("nan"), -1.0):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is .*: choose 0 to 1000"):
            kind(**{name: value})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_numbers_are_named_before_the_first_step(value: float) -> None:
    x, y = some_features()
    x[3][2, 1] = value
    steps: list[dict[str, float]] = []
    for train in (
        lambda: train_classifier(x, y, TRAIN, on_step=steps.append, **HOW),
        lambda: pretrain_features(x, TRAIN, 3, on_step=steps.append, **HOW),
    ):
        with pytest.raises(UserError, match="features of clip 4 are not finite"):
            train()
    assert not steps


def test_features_that_do_not_belong_together_are_named() -> None:
    x, y = some_features()
    for wrong, told in (
        ([*x[:5], x[5][:, :7]], r"clip 6 are \(9, 7\), the first's \(9, 8\)"),
        ([*x[:5], x[5][:0]], r"clip 6 are \(0, 8\)"),
        ([*x[:5], x[5][0]], r"clip 6 are \(8,\)"),
        (x[:5], "features of 5 clips for 6"),
    ):
        with pytest.raises(UserError, match=told):
            train_classifier(wrong, y, TRAIN, **HOW)
    with pytest.raises(UserError, match="features of 0 clips"):
        pretrain_features([], TRAIN, 3, **HOW)


def test_weights_that_answer_no_number_are_named(tmp_path: Path, small_video: Path) -> None:
    """They are finite, and what they compute is not."""
    encoder = encoders.build()
    meta = {"key": "k", "sampling": PRE.sampling, "config": {}, "history": []}
    torch.nn.init.constant_(encoder.net.layer3[0].conv2.weight, 3e38)
    checkpoints.save_encoder(tmp_path / "e.pth", encoder, meta)
    torch.manual_seed(0)
    model = train_classifier(*some_features(), TRAIN, **HOW)[0]
    model.embed = torch.nn.Linear(encoder.dim, 8)
    model.spec["dim"] = encoder.dim
    meta |= {"classes": ["a", "b"], "encoder_id": encoders.identity(encoder)}
    checkpoints.save_classifier(tmp_path / "c.pth", model, meta)
    predictor = Predictor(tmp_path / "e.pth", tmp_path / "c.pth", CPU)
    with pytest.raises(UserError, match="e.pth, c.pth: the answer is not a number"):
        predictor.predict(small_video)


# -- few clips, short clips --


@pytest.mark.parametrize("frames", [1, 3])
def test_clips_of_a_frame_or_three_go_all_the_way(
    films: Callable[..., list[Clip]], tmp_path: Path, frames: int
) -> None:
    """All are shorter than the window; one class has one clip."""
    clips = films(frames, "a", "b", "a", "b", "a", "c")
    train, val, note = catalog.split_train_val(clips)
    assert "c" in catalog.actions(train) and "val has no c" in note
    encoder, history = pretrain(train, PRE, tmp_path / "e.pth", monitor_every=1, **HOW)
    assert all(np.isfinite(r["loss"]) for r in history)
    meta = checkpoints.load_encoder(tmp_path / "e.pth")[1]
    belongs = {"encoder_id": meta["id"], "sampling": PRE.sampling}
    x = extract_features(encoder, clips, PRE.sampling, CPU, progress=False)
    assert [len(f) for f in x] == [frames] * 6
    labels, people = [str(c.action) for c in clips], [c.person for c in clips]
    start = pretrain_features(x, TRAIN, 2, **HOW)[0]
    out = tmp_path / "c.pth"
    model, actions, _ = train_classifier(
        x, labels, TRAIN, out, belongs, people=people, start=start, **HOW
    )
    assert actions == ["a", "b", "c"] and np.isfinite(classify(model, x)).all()
    answer = Predictor(tmp_path / "e.pth", out, CPU).predict(clips[0].path)
    assert answer.probabilities.sum() == pytest.approx(1) and len(answer.frame_times) == frames
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = evaluation.test(encoder, PRE.sampling, train, val, TRAIN, CPU, False)
        assert all("accuracy" in o.report() for o in outcomes.values())
        assert probes.tsne(probes.pool(x)).shape == (6, 2)


@pytest.mark.parametrize("frames", [1, 3])
def test_networks_of_clips_take_a_frame_or_three(
    films: Callable[..., list[Clip]], frames: int
) -> None:
    clips = films(frames, "a", "b", "a", "b")
    _, history = pretrain_videomae(clips, TINY, MaskConfig(ratio=0.5, steps=1, batch=2), **HOW)
    tuned, more = finetune_videomae(clips, TINY, TuneConfig(steps=1, batch=2), **HOW)
    *_, last = train_together(clips, PRE, TRAIN, 1, batch=2, frames=4, **HOW)
    assert tuned.config.classes == ("a", "b")
    assert all(np.isfinite(h[0]["loss"]) for h in (history, more, last))


def test_one_clip_pre_trains(films: Callable[..., list[Clip]]) -> None:
    _, history = pretrain(films(3, "a"), PRE, monitor_every=1, **HOW)
    assert np.isfinite(history[-1]["loss"]) and np.isnan(history[-1]["knn"])


# -- labels --


def test_what_cannot_be_tested_is_said_before_anything_is_computed(
    films: Callable[..., list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "extract_features", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(evaluation, "pretrain", lambda *_, **__: 1 / 0)
    both, one, none = films(3, "a", "b"), films(3, "a", "a"), films(3, None, None)
    for train, val, told in (
        (one, both, r"two actions or more, found \['a'\]"),
        (none, both, r"two actions or more, found \[\]"),
        ([], both, "two actions or more"),
        (both, none, "no clip to test on has an action"),
        (both, [], "no clip to test on has an action"),
    ):
        for run in (
            lambda t=train, v=val: to_test(t, v),
            lambda t=train, v=val: evaluation.test(None, {}, t, v, TRAIN),
            lambda t=train, v=val: evaluation.over_folds([("x", t, v)], PRE, TRAIN),
        ):
            with pytest.raises(UserError, match=told):
                run()
    with pytest.warns(UserWarning, match="only test clips show b"):
        assert to_test([*films(3, "a", "c"), *none], [*both, *none])[1] == both
    with pytest.raises(UserError, match="no clip to test on"):
        evaluation.outcome([], [], ["a", "b"])
    with pytest.raises(UserError, match="two actions or more"):
        train_together(one, PRE, TRAIN, 1)
    with pytest.raises(UserError, match="two actions or more"):
        finetune_videomae(one, TINY, TuneConfig())


@pytest.fixture
def folder(tmp_path: Path, films: Callable[..., list[Clip]], monkeypatch: pytest.MonkeyPatch):
    """A function that puts one-frame clips into {place: count}, and runs the command line there."""
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path / "data"))
    pretrain(films(3, "a", "b"), replace(PRE, steps=1), tmp_path / "e.pth", **HOW)
    shutil.rmtree(tmp_path / "data")

    def run(capsys: pytest.CaptureFixture[str], places: dict[str, int], *words: str) -> str:
        root, taken = tmp_path / "clips", 0
        for place, count in places.items():
            (root / place).mkdir(parents=True)
            for clip in films(3, *["x"] * (taken + count))[taken:]:
                (root / place / f"film{taken}x.webm").write_bytes(clip.path.read_bytes())
                taken += 1
        given = {"ENCODER": str(tmp_path / "e.pth"), "OUT": str(tmp_path / "c.pth")}
        more = [given.get(word, word) for word in words]
        assert cli.main([more[0], "--data", str(root), *more[1:]]) == 2
        told = capsys.readouterr().err
        assert told.splitlines()[-1].startswith("vidlib: ") and told.count("vidlib:") == 1
        assert not (tmp_path / "c.pth").exists() and not (tmp_path / "data" / "cache").exists()
        return told

    return run


TRAINING = ("train", "--encoder", "ENCODER", "--out", "OUT", "--steps", "2")
FOLDERS = [
    ({"train/a": 2, "val/a": 1}, TRAINING, "two actions or more, found ['a']"),
    ({"train/a": 1, "train/b": 1, "val/unknown": 1}, TRAINING, "no clip to test on has an action"),
    ({"train/unlabelled": 2, "val/unlabelled": 1}, TRAINING, "two actions or more, found []"),
    ({"a": 1, "b": 1}, TRAINING, "2 clips cannot be split into train and val"),
    ({"a": 1}, ("pretrain", "--out", "OUT"), "1 clip cannot be split into train and val"),
    ({"train/a": 2, "val/a": 1}, ("evaluate", "--protocol", "random"), "two actions or more"),
    ({"a": 2, "b": 2}, ("evaluate", "--protocol", "leave-one-person-out"), "person"),
]  # fmt: skip


@pytest.mark.parametrize(("places", "words", "told"), FOLDERS)
def test_the_command_line_says_so_first(
    folder: Callable[..., str], capsys: pytest.CaptureFixture[str],
    places: dict[str, int], words: tuple[str, ...], told: str,
) -> None:  # fmt: skip
    assert told in folder(capsys, places, *words)
