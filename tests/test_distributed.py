"""Two processes on one machine: the loss curve, going on, dying, features, and who speaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distributed_worker import CPU, TINY
from vidlib import augment, checkpoints, cli, distributed, encoders, features, pretraining, settings
from vidlib.catalog import Clip
from vidlib.loop import Interrupted
from vidlib.pretraining import pretrain
from vidlib.settings import REPO, UserError
from vidlib.simsiam import SimSiam

WORKER = REPO / "tests" / "distributed_worker.py"
COMMAND = ["pretrain", "--source=studio", "--device=cpu", "--size=32", "--steps=10",
           "--batch-clips=8", "--frames-per-clip=2"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plain_arithmetic() -> Iterator[None]:
    """float32 in one thread everywhere, so that curves can be compared to the last digits."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDLIB_PRECISION", "float32")
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


def start(*command: str | Path, count: int = 2) -> subprocess.Popen[str]:
    """torchrun with `count` processes of a script, or of `-m module`."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [*torchrun, f"--nproc-per-node={count}", *map(str, command)], text=True, cwd=REPO,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(run: subprocess.Popen[str]) -> str:
    return run.communicate(timeout=120)[0]


def reference(
    clips: Sequence[Clip], parts: Sequence[int], first_alone: bool = False
) -> list[float]:
    """The losses of one process that takes the joined batch of each step, and lets batch norm
    see it in so many equal parts, one after the other; with `first_alone` it learns from the
    first part only."""
    settings.seed_everything(TINY.seed)
    encoder = encoders.build(TINY.backbone, TINY.stem)
    model = SimSiam(encoder, encoder.dim, TINY.center, TINY.clip_loss, hidden=TINY.hidden,
                    bottleneck=TINY.bottleneck).to(memory_format=torch.channels_last)  # fmt: skip
    peak = TINY.lr * TINY.batch_clips * TINY.frames_per_clip / 256
    named = list(model.named_parameters())
    body = [p for name, p in named if ".predictor." not in name]
    predictors = [p for name, p in named if ".predictor." in name]
    optimiser = torch.optim.SGD([{"params": body}, {"params": predictors}], peak, momentum=0.9,
                                weight_decay=TINY.weight_decay)  # fmt: skip
    frames, losses = pretraining.Frames(clips, TINY), []
    for i, count in enumerate(parts):
        optimiser.param_groups[0]["lr"] = peak * 0.5 * (1 + np.cos(np.pi * i / TINY.steps))
        *pair, rng = frames.batch(i)
        views = [pretraining.random_view(x, TINY, rng) for x in pair]
        views = [encoders.normalise(x, TINY.background) for x in views]
        halves = zip(*(x.chunk(count) for x in views), strict=True)
        each = torch.stack([model(one, two)[0] for one, two in halves])
        loss = each.mean()
        optimiser.zero_grad()
        (each[0] if first_alone else loss).backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def two(
    quick_clips: Sequence[Clip], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, list[dict]]:
    """The folder, the output and both processes' results of distributed_worker.curves; what it
    goes on with was begun by one process."""
    folder = tmp_path_factory.mktemp("two")
    checkpoints.save_encoder(
        folder / "fixed.pth", encoders.build(), {"key": "k", "sampling": {}, "history": []}
    )
    with pytest.raises(Interrupted):
        pretrain(quick_clips, TINY, folder / "resumed.pth", CPU, stop_at=2, progress=False)
    run = start(WORKER, "curves", folder)
    out = finish(run)
    assert run.returncode == 0, out
    return folder, out, [json.loads((folder / f"{k}.json").read_text()) for k in (0, 1)]


# float32 sums in another order; measured 4e-7 at most over six steps. A wrong share, view, part of
# batch norm or gradient would show far more (the test's other two curves).
TOLERANCE = 1e-5


def test_two_processes_learn_as_one_that_normalises_each_half_by_itself(
    two: tuple[Path, str, list[dict]], quick_clips: Sequence[Clip]
) -> None:
    _, out, told = two
    losses = [r["loss"] for r in told[0]["whole"]]
    np.testing.assert_allclose(losses, reference(quick_clips, [2] * 6), atol=TOLERANCE, rtol=0)
    for other in (
        reference(quick_clips, [1] * 6),
        reference(quick_clips, [2] * 6, first_alone=True),
    ):
        assert np.abs(np.subtract(losses, other)).max() > 10 * TOLERANCE
    assert losses == [r["loss"] for r in told[1]["whole"]]
    assert told[0]["weights"] == told[1]["weights"]
    assert out.count("number 0 alone is heard") == 1


def test_a_run_goes_on_with_another_number_of_processes(
    two: tuple[Path, str, list[dict]], quick_clips: Sequence[Clip]
) -> None:
    """One process, then two, then one: each step as the reference takes it."""
    folder, _, told = two
    assert told[0]["done"] == told[1]["done"] == [3, 4]
    assert "after step 4 of 6: saved to" in told[0]["said"]
    done: list[float] = []
    _, history = pretrain(
        quick_clips, TINY, folder / "resumed.pth", CPU, lambda r: done.append(r["step"]),
        progress=False,
    )  # fmt: skip
    assert done == [5, 6]
    expected = reference(quick_clips, [1, 1, 2, 2, 1, 1])
    np.testing.assert_allclose([r["loss"] for r in history], expected, atol=TOLERANCE, rtol=0)


def test_two_processes_fill_the_feature_store_as_one(
    two: tuple[Path, str, list[dict]], quick_clips: Sequence[Clip]
) -> None:
    folder, _, told = two
    assert [t["share"] for t in told] == [5, 4]
    encoder, _ = checkpoints.load_encoder(folder / "fixed.pth")
    store = settings.cache_dir() / "features" / encoders.identity(encoder)
    assert len(list(store.iterdir())) == 9  # a file a clip and nothing half-written
    kept = features.extract_features(encoder, quick_clips[:9], TINY.sampling, CPU, False)
    assert len(list(store.iterdir())) == 9  # nothing lacked
    fresh = features.extract_features(encoder, quick_clips[:9], TINY.sampling, CPU, False, False)
    for a, b in zip(kept, fresh, strict=True):
        assert np.array_equal(a, b)


def test_a_process_that_dies_ends_the_run_and_the_same_command_goes_on(
    quick_clips: Sequence[Clip], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, f"--out={tmp_path / 'encoder.pth'}"]
    (tmp_path / "command.json").write_text(json.dumps(command))
    run = start(WORKER, "killed", tmp_path)
    out = finish(run)
    assert run.returncode != 0
    assert out.count("a process of this run died") == 1 and "goes on from what is saved" in out
    assert "rank      : 1" in out and "SIGKILL" in out  # torchrun names it
    part = checkpoints.load(tmp_path / "encoder.pth.part", "unfinished run", "")
    assert [r["step"] for r in part["history"]] == [1, 2, 3]
    assert not any(name.startswith("module.") for name in part["model"])
    assert cli.main(command) == 0
    _, meta = checkpoints.load_encoder(tmp_path / "encoder.pth")
    assert meta["history"][:3] == part["history"] and len(meta["history"]) == 10


def test_sigterm_saves_and_the_run_says_so(quick_clips: Sequence[Clip], tmp_path: Path) -> None:
    """Slurm sends it at the time limit; torchrun hands it to its processes."""
    out = tmp_path / "encoder.pth"
    run = start("-m", "vidlib", *COMMAND, "--steps=100000", f"--out={out}")
    assert run.stdout
    said = ""
    while "pre-training" not in said and run.poll() is None:
        said += run.stdout.read(1)
    time.sleep(1)  # the bar stands before the first step
    run.send_signal(signal.SIGTERM)
    said += finish(run)
    assert "pre-training stopped after step" in said and "saved to" in said, said
    part = checkpoints.load(tmp_path / "encoder.pth.part", "unfinished run", "")
    assert f"after step {len(part['history'])} of 100000" in said
    assert said.count("run the same again to go on") == 1


def test_training_on_shared_features_ends_as_in_one_process(
    quick_clips: Sequence[Clip], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "encoder.pth"
    pretrain(quick_clips, replace(TINY, steps=1), encoder, CPU, progress=False)
    command = ["train", "--source=studio", "--device=cpu", f"--encoder={encoder}", "--steps=3"]
    run = start("-m", "vidlib", *command, f"--out={tmp_path / 'two.pth'}")
    said = finish(run)
    assert run.returncode == 0, said
    assert cli.main([*command, f"--out={tmp_path / 'one.pth'}"]) == 0
    one, two = (checkpoints.load(tmp_path / f"{n}.pth", "action classifier", "")
                for n in ("one", "two"))  # fmt: skip
    assert one["key"] == two["key"]  # of the features' content
    assert said.count("accuracy") == 1


def test_a_mistake_is_told_once() -> None:
    run = start("-m", "vidlib", "evaluate")
    said = finish(run)
    assert run.returncode != 0
    assert said.count("vidlib: evaluate runs in one process: start it without torchrun") == 1


@pytest.mark.parametrize(
    ("change", "parts", "says"),
    [
        ({"batch_clips": 8}, 3, "--batch-clips is 8: choose a multiple of the 3 processes"),
        ({"batch_clips": 4}, 4, "two clips in each of the 4 processes, so 8 or more"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(change: dict, parts: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        pretraining._check_parts(replace(TINY, **change), parts)


STUCK = """
import os, signal, time
from vidlib import distributed
distributed.GRACE = 2.0
signal.signal(signal.SIGINT, signal.{})
distributed._heed_sigterm()
for k in range(100):
    try:
        if k == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    except KeyboardInterrupt:
        print("as Ctrl-C", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.parametrize("before", ["default_int_handler", "SIG_IGN"])
def test_a_process_that_does_not_heed_sigterm_ends_all_the_same(before: str) -> None:
    """NCCL waits for a dead process inside a call in which Python's handlers do not run."""
    code = STUCK.format(before)
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 128 + signal.SIGTERM
    assert run.stdout == "as Ctrl-C\n" and run.stderr.count("ended by SIGTERM") == 1


def test_batch_norm_of_a_gpu_run_is_saved_as_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "_run", distributed._Run(0, 2))
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model: model)
    encoder = encoders.build()
    model = SimSiam(encoder, encoder.dim, clip_loss=1.0)
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    together = distributed.parallel(model, torch.device("cuda"))
    kinds = [type(m) for m in together.modules()]
    assert kinds.count(torch.nn.SyncBatchNorm) > 10 and torch.nn.BatchNorm2d not in kinds
    # an optimiser made before goes on with the same tensors
    assert before == {name: p.data_ptr() for name, p in model.named_parameters()}
    encoders.build().load_state_dict(encoder.state_dict())  # strict: the same names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBatchNorm needs a GPU")
def test_on_a_gpu_two_processes_normalise_the_joined_batch(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    """Both on one GPU, so gloo instead of nccl, which refuses that."""
    finish(start(WORKER, "one_gpu", tmp_path))
    losses = json.loads((tmp_path / "0.json").read_text())
    # 1e-4: the GPU's convolutions differ from the CPU's by more than two orders of a sum
    np.testing.assert_allclose(losses, reference(quick_clips, [1] * 6), atol=1e-4, rtol=0)


@given(st.integers(1, 40), st.integers(1, 7))
def test_shares_hold_every_item_once_and_differ_by_one_at_most(count: int, parts: int) -> None:
    shares = []
    for k in range(parts):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "_run", distributed._Run(k, parts))
            shares.append(distributed.share(range(count)))
    assert sorted(i for each in shares for i in each) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.sampled_from([2, 4]), st.sampled_from([*augment.RECIPES]), st.integers(0, 2**32 - 1))
def test_the_parts_of_a_batch_are_the_whole_batch(parts: int, recipe: str, seed: int) -> None:
    """What R processes read and draw, end to end, is what one does."""
    views = augment.draw(8, augment.RECIPES[recipe], torch.Generator().manual_seed(seed))
    for name, whole in vars(views).items():
        pieces = [getattr(views.part(k, parts), name) for k in range(parts)]
        assert pieces == [None] * parts if whole is None else torch.equal(torch.cat(pieces), whole)


def test_alone_nothing_is_asked_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):  # another launcher's, not torchrun's
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torch, "distributed", None)
    model = torch.nn.Linear(2, 2)
    with distributed.processes("cpu"):
        assert (distributed.rank(), distributed.world()) == (0, 1)
        assert distributed.parallel(model, CPU) is model
        assert distributed.mean(0.1, 0.2) == (0.1, 0.2)
        assert distributed.from_first(lambda: 3) == 3 and distributed.gather({1: 2}) == {1: 2}
        assert distributed.share("abc") == "abc" and distributed.workers() is None
        assert distributed.any_of(True) and not distributed.any_of(False)
    assert distributed.leave()


def test_more_clips_than_files_may_be_open_are_pre_trained_on(
    quick_clips: Sequence[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "OPEN", 3)
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc to count open files")
    before = len(list(folder.iterdir()))
    frames = pretraining.Frames(quick_clips, TINY)
    frames.batch(0)
    assert len(list(folder.iterdir())) <= before + 3
