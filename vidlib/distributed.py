"""One run in several processes, on one machine or many: `torchrun ... -m vidlib pretrain ...`.

torchrun starts R processes and gives each a number, 0 to R - 1. All do the same, but each has a
share of the clips, and number 0 alone prints and writes. With one process every function here is
the identity, and torch.distributed is asked for nothing.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from . import settings
from .settings import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

# Shares of decoding and encoding end at different times, and number 0 saves and tests while the
# others wait. A process that died is noticed by torchrun at once, so waiting long costs nothing.
PATIENCE = timedelta(hours=6)
GRACE = 20.0  # seconds to save after SIGTERM; torchrun and Slurm kill after 30


class Lost(UserError):
    """Another process of the run has died."""


@dataclass
class _Run:
    rank: int = 0
    world: int = 1
    store: Any = None  # torchrun's table of strings, which all processes share


_run = _Run()


def environment() -> tuple[int, int]:
    """This process's number and how many torchrun started; (0, 1) without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # RANK alone may be anybody's
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """This process's number."""
    return _run.rank


def world() -> int:
    """How many processes the run has."""
    return _run.world


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's share: every R-th item, since neighbours are often of one length."""
    return items[_run.rank :: _run.world]


def workers() -> int | None:
    """How many decoding processes each process may start; None leaves it to the cache."""
    if _run.world == 1:
        return None
    return max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))


@contextmanager
def processes(device_name: str | None = None) -> Iterator[None]:
    """Join the processes that torchrun started, until the block ends; nothing without torchrun.

    On CUDA each process has the GPU of its number on its machine. SIGTERM (Slurm's time limit, a
    machine taken back) becomes what Ctrl-C is. Raises UserError for a device that several
    processes cannot use, Lost when another process has died.
    """
    number, count = environment()
    if count == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    store, _, _ = next(dist.rendezvous("env://"))
    _run.store = store
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device_name != "cpu" and local < gpus:  # first, or all would take memory on GPU 0
        torch.cuda.set_device(local)
    device = settings.device(device_name)
    if device.type == "cuda" and (device.index is not None or local >= gpus):
        raise UserError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes on a machine with {gpus} GPUs: each takes "
            f"its own, so --nproc-per-node {gpus} at most and --device cuda, or --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot share {device}: say --device cpu")
    _heed_sigterm()
    try:
        # objects travel by gloo on every machine, gradients on GPUs by nccl
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=number, world_size=count, timeout=PATIENCE
        )
        _run.rank, _run.world = number, count
        with contextlib.redirect_stdout(io.StringIO()) if number else contextlib.nullcontext():
            yield
        leave()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise Lost(
                "a process of this run died (torchrun's report says which), so all were stopped: "
                "the same command goes on from what is saved"
            ) from error
        raise


def leave() -> bool:
    """End the togetherness, when all have come here; -> whether this process is number 0, which
    may go on alone."""
    first = _run.rank == 0
    if _run.world > 1:
        import torch.distributed as dist

        wait()
        dist.destroy_process_group()
        _run.rank, _run.world, _run.store = 0, 1, None
    return first


def tell(message: str) -> None:
    """Print to standard error; of several processes, the first one that has something to tell."""
    try:
        first = _run.store is None or _run.store.add("told", 1) == 1
    except Exception:  # the store has gone with its machine: better twice than never
        first = True
    if first:
        print(message, file=sys.stderr, flush=True)


def from_first(work: Callable[[], T]) -> T:
    """What `work` gives in process 0, or the UserError it raises there, in every process."""
    if _run.world == 1:
        return work()
    import torch
    import torch.distributed as dist

    answer: list[Any] = [None, None]
    if _run.rank == 0:
        try:
            answer[0] = work()
        except UserError as error:
            answer[1] = error
    dist.broadcast_object_list(answer, device=torch.device("cpu"))
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gather(mine: dict[Any, T]) -> dict[Any, T]:
    """All processes' entries, in every process."""
    if _run.world == 1:
        return mine
    import torch.distributed as dist

    parts: list[dict[Any, T]] = [{}] * _run.world
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def mean(*values: float) -> tuple[float, ...]:
    """Each value's mean over the processes, the same in all of them."""
    if _run.world == 1:
        return values
    import torch
    import torch.distributed as dist

    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return tuple((total / _run.world).tolist())


def any_of(flag: bool) -> bool:
    """Whether it is so in any of the processes."""
    return mean(float(flag))[0] > 0


def parallel(model: "nn.Module", device: "torch.device") -> "nn.Module":
    """The model, wrapped so that gradients are averaged over the processes (PyTorch's
    DistributedDataParallel; Li et al., VLDB 2020); weights become those of process 0.

    On CUDA batch norm takes its statistics from all processes' frames. Elsewhere PyTorch has no
    such layer, so each process normalises its own share, and the running statistics are those of
    process 0. The model's own layers are changed in place; keep it to save it.
    """
    if _run.world == 1:
        return model
    from torch import nn

    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model)


def wait() -> None:
    """Until all processes have come here."""
    any_of(False)


def _heed_sigterm() -> None:
    """Make SIGTERM a Ctrl-C, and the end after GRACE seconds.

    When a process dies torchrun sends SIGTERM to the others, which may wait for its answer inside
    a library where Python's handlers never run. A thread hears of signals even then.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs begin
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))

    def watch() -> None:
        while os.read(read, 1)[0] != signal.SIGTERM:
            pass
        time.sleep(GRACE)
        tell("vidlib: ended by SIGTERM: the same command goes on from what is saved")
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
