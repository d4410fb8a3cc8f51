"""Pre-training on the quick data: determinism, resume, collapse, and what it refuses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import rounds
from vidlib import checkpoints, encoders, motion, pretraining, settings
from vidlib.catalog import Clip
from vidlib.loop import Interrupted
from vidlib.pretraining import Collapsed, pretrain
from vidlib.settings import PretrainConfig, UserError, profile

# small pictures: what is tested here does not depend on their size
TINY = PretrainConfig.of(profile("quick"), size=32, steps=5, batch_clips=4, frames_per_clip=2)
CPU = torch.device("cpu")


def weights(encoder: torch.nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().float() for v in encoder.state_dict().values()])


def test_two_runs_with_one_seed_are_identical_and_another_seed_differs(
    quick_clips: Sequence[Clip],
) -> None:
    a, history = pretrain(quick_clips, TINY, device=CPU, progress=False)
    b, _ = pretrain(quick_clips, TINY, device=CPU, progress=False)
    c, _ = pretrain(quick_clips, replace(TINY, seed=1), device=CPU, progress=False)
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(c))
    assert [r["step"] for r in history] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_equals_one_never_interrupted(
    quick_clips: Sequence[Clip], tmp_path: Path, stop: int
) -> None:
    whole, expected = pretrain(quick_clips, TINY, device=CPU, progress=False)
    out = tmp_path / "encoder.pth"
    with pytest.raises(Interrupted, match=f"after step {stop} of 5: saved"):
        pretrain(quick_clips, TINY, out, CPU, stop_at=stop, progress=False)
    assert not out.exists()
    done: list[float] = []
    resumed, history = pretrain(
        quick_clips, TINY, out, CPU, lambda r: done.append(r["step"]), progress=False
    )
    assert done == list(range(stop + 1, 6))  # it went on, it did not begin again
    assert torch.equal(weights(whole), weights(resumed))
    assert [r["loss"] for r in history] == [r["loss"] for r in expected]
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.pth"]  # nothing left over


@pytest.mark.soak
def test_runs_stopped_again_and_again_end_alike(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    """Stopped after any steps, any number of times: the same weights in the end."""
    whole, _ = pretrain(quick_clips, TINY, device=CPU, progress=False)
    rng = np.random.default_rng(0)
    for k in range(rounds(40)):
        out = tmp_path / f"{k}.pth"
        for stop in np.flatnonzero(rng.random(TINY.steps - 1) < 0.5) + 1:
            with pytest.raises(Interrupted):
                pretrain(quick_clips, TINY, out, CPU, stop_at=int(stop), progress=False)
        resumed, _ = pretrain(quick_clips, TINY, out, CPU, progress=False)
        assert torch.equal(weights(whole), weights(resumed)), k


def test_a_finished_run_is_loaded_and_a_changed_one_is_made_again(
    quick_clips: Sequence[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "encoder.pth"
    first, _ = pretrain(quick_clips, TINY, out, CPU, progress=False)
    steps: list[float] = []
    again, _ = pretrain(
        quick_clips, TINY, out, CPU, on_step=lambda r: steps.append(r["step"]), progress=False
    )
    assert torch.equal(weights(first), weights(again)) and not steps
    pretrain(quick_clips[1:], TINY, out, CPU, lambda r: steps.append(r["step"]), progress=False)
    assert len(steps) == 5  # other clips, another key
    pretrain(quick_clips[1:], replace(TINY, steps=2), out, CPU, progress=False)
    meta = checkpoints.load_encoder(out)[1]
    assert len(meta["history"]) == 2 and meta["machine"] == settings.machine(CPU)


@pytest.mark.parametrize(
    "change",
    [{"gap": 0.3}, {"shared_view": False}, {"clip_loss": 0.0}, {"recipe": "body"}]
    + [{"background": "median"}, {"background": "none"}, {"center": False}],
)  # fmt: skip
def test_every_part_of_the_recipe_can_be_changed_and_changes_the_run(
    quick_clips: Sequence[Clip], change: dict[str, object]
) -> None:
    losses = [
        [r["loss"] for r in pretrain(quick_clips, c, device=CPU, progress=False)[1]]
        for c in (TINY, replace(TINY, **change))
    ]
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_a_gap_takes_the_second_views_frames_from_the_same_clip(
    quick_clips: Sequence[Clip],
) -> None:
    """0.25 s at 12 frames a second: three frames before or after; without a gap the same ones."""
    frames = pretraining.Frames(quick_clips, replace(TINY, gap=0.25))
    first, second, _ = frames.batch(0)
    decoded = [frames.film(i)[0] for i in range(len(quick_clips))]
    films = [(np.array(f, np.float32) - 128) / np.float32(170) for f in decoded]
    place = {f.tobytes(): (i, k) for i, film in enumerate(films)
             for k, f in enumerate(film)}  # fmt: skip
    found = [
        place[x.permute(1, 2, 0).contiguous().numpy().tobytes()]
        for view in (first, second)
        for x in view.flatten(0, 1)
    ]
    for (clip, at), (other, then) in zip(found[: len(found) // 2], found[len(found) // 2 :],
                                         strict=True):  # fmt: skip
        assert clip == other and abs(at - then) == 3
    first, second, _ = pretraining.Frames(quick_clips, TINY).batch(0)
    assert torch.equal(first, second)


def test_without_stop_gradient_the_outputs_collapse_and_with_it_they_do_not(
    quick_clips: Sequence[Clip],
) -> None:
    """The paper's figure 2, on single frames as there. `output_norm` is off in both runs: with it
    a collapsed batch ends as two points instead of one (see `SimSiam`)."""
    config = PretrainConfig.of(
        profile("quick"), size=32, steps=60, batch_clips=64, frames_per_clip=1, lr=0.4,
        center=False, clip_loss=0.0, background="none", recipe="body", output_norm=False,
    )  # fmt: skip
    healthy = pretrain(quick_clips, config, device=CPU, progress=False)[1]
    collapsed = pretrain(
        quick_clips, replace(config, stop_gradient=False), device=CPU, progress=False
    )[1]
    assert min(r["collapse"] for r in healthy) > 0.5
    assert collapsed[-1]["collapse"] < 0.2
    assert collapsed[-1]["loss"] < healthy[-1]["loss"]  # the lower loss is the worthless run


def test_a_collapsing_run_stops_and_says_why(
    quick_clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "collapse_measure", lambda z: 0.1)
    monkeypatch.setattr(pretraining, "PATIENCE", 3)
    with pytest.raises(Collapsed, match="stopped at step 3: the collapse measure"):
        pretrain(quick_clips, TINY, device=CPU, progress=False)


def test_the_predictors_rate_is_fixed_and_the_others_decay(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    out = tmp_path / "encoder.pth"
    with pytest.raises(Interrupted):
        pretrain(quick_clips, TINY, out, CPU, stop_at=4, progress=False)
    part = torch.load(tmp_path / "encoder.pth.part", weights_only=True)
    body, predictor = (group["lr"] for group in part["optimiser"]["param_groups"])
    peak = TINY.lr * 8 / 256  # scaled by the frames in a step
    assert predictor == pytest.approx(peak)
    assert body == pytest.approx(peak * 0.5 * (1 + torch.cos(torch.tensor(3 * torch.pi / 5))))


def test_knn_is_shown_and_needs_labels(quick_clips: Sequence[Clip]) -> None:
    _, history = pretrain(quick_clips, TINY, device=CPU, monitor_every=5, progress=False)
    assert 0 <= history[-1]["knn"] <= 1
    bare = [replace(c, action=None) for c in quick_clips]
    _, history = pretrain(bare, TINY, device=CPU, monitor_every=5, progress=False)
    assert history[-1]["knn"] != history[-1]["knn"]  # nan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames_per_clip": 1}, "its own mean"),
        ({"recipe": "mixed"}, "no recipe"),
        ({"lr": 1e30}, r"--lr is 1e\+30: choose 0 to 1000"),
        ({"backbone": "resnet0"}, "no backbone"),
    ],
)
def test_mistakes_are_named(quick_clips: Sequence[Clip], changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        pretrain(quick_clips, replace(TINY, **changes), device=CPU, progress=False)


def test_a_place_that_cannot_be_written_is_told_before_the_first_step(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    steps: list[float] = []
    with pytest.raises(UserError, match="e.pth.* could not be written.*name another folder"):
        out = tmp_path / "file" / "e.pth"
        pretrain(quick_clips, TINY, out, CPU, lambda r: steps.append(r["step"]), progress=False)
    assert not steps


def test_starting_weights_come_from_a_file_and_count_by_content(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    start, out = tmp_path / "start.pth", tmp_path / "out.pth"
    first, _ = pretrain(quick_clips, TINY, start, CPU, progress=False)
    config = replace(TINY, init=str(start), lr=0.0, weight_decay=0.0, steps=2)
    second, _ = pretrain(quick_clips, config, out, CPU, progress=False)
    for name, value in first.named_parameters():  # no step of size 0 moves them
        assert torch.equal(value, dict(second.named_parameters())[name]), name
    before = checkpoints.stored_key(out)
    pretrain(quick_clips, replace(TINY, seed=1), start, CPU, progress=False)  # same name
    pretrain(quick_clips, config, out, CPU, progress=False)
    assert checkpoints.stored_key(out) != before


@pytest.mark.parametrize("length", [1, 2, 7, 24])
def test_the_median_frame_is_the_one_that_predicting_subtracts(length: int) -> None:
    frames = np.random.default_rng(length).integers(0, 256, (length, 6, 5, 3), dtype=np.uint8)
    theirs = encoders.to_float(torch.from_numpy(frames).permute(0, 3, 1, 2)[None], "median")
    ours = frames.astype(np.float32) - motion.still(frames)
    np.testing.assert_allclose(ours / 255, theirs[0].permute(0, 2, 3, 1), atol=1e-6)


def test_no_clips_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="vidlib studio"):
        pretrain([], TINY)
