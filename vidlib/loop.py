"""A training loop that can be stopped at any step and gone on with, to the same result.

The rule that makes it so: a step's random choices depend on (seed, step) alone, and everything else
a step depends on is in `states`.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from . import checkpoints, distributed, settings
from .settings import UserError

Record = dict[str, float]
EXPLODED = 1e4  # times what a loss began with: from there no run has come back


class Interrupted(UserError):
    """The run was stopped by Ctrl-C; what was done is saved."""


class Stateful(Protocol):
    """A model, an optimiser, a schedule: whatever a step changes."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@contextmanager
def stop_button() -> Iterator[threading.Event]:
    """Turn Ctrl-C (or the notebook's stop button) into an event that the loop looks at between
    steps: an optimiser step is never cut in half."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread alone
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def run(
    title: str,
    steps: int,
    do_step: Callable[[int], Record],
    states: dict[str, Stateful],
    run_key: str,
    out: Path | None = None,
    on_step: Callable[[Record], None] | None = None,
    save_every: float = 60.0,
    stop_at: int | None = None,
    progress: bool = True,
) -> list[Record]:
    """Call `do_step` for every step and return its records, each with `step` (from 1) and
    `seconds` since the start added.

    With `out`, `<out>.part` keeps the states every `save_every` seconds, when the run is stopped
    and at its end; a `.part` of the same `run_key` is gone on with. `stop_at` stops after that
    step as Ctrl-C would. Raises Interrupted when stopped. In several processes number 0 reads and
    writes `.part` and shows the bar, and all stop after the same step when one is stopped.
    """
    part = out.with_name(out.name + ".part") if out else None
    history: list[Record] = []
    if out:
        # can it be written at the end?
        distributed.from_first(lambda: settings.write(out, lambda file: None, keep=False))

    def unfinished() -> Any:
        if part and checkpoints.stored_key(part) == run_key:
            try:
                return checkpoints.load(part, "unfinished run", "delete it and start again")
            except UserError:
                if part.exists():
                    raise  # else another process has just finished the same run

    if saved := distributed.from_first(unfinished):
        with checkpoints.sound(part or "", "delete it and start again"):
            history = _restored(states, saved, steps)

    def save() -> None:
        if part and distributed.rank() == 0:
            content = {"kind": "unfinished run", "key": run_key, "history": history}
            checkpoints.save(part, content | {k: s.state_dict() for k, s in states.items()})

    done = len(history)
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    last_save = time.perf_counter()
    bar = settings.bar(range(done, steps), title, initial=done, total=steps,
                       disable=not progress or distributed.rank() > 0)  # fmt: skip
    with stop_button() as stopped:
        for step in bar:
            record = do_step(step) | {"step": step + 1, "seconds": time.perf_counter() - began}
            history.append(record)
            first, now = history[0].get("loss", 0.0), record.get("loss", 0.0)
            if now > EXPLODED * max(1.0, abs(first)):
                raise UserError(f"{title}: the loss rose from {first:.3g} to {now:.3g} at step "
                                f"{step + 1}: try a smaller learning rate")  # fmt: skip
            shown = {k: f"{record[k]:.3f}" for k in ("loss", "collapse") if k in record}
            bar.set_postfix(shown, refresh=False)
            if on_step:
                on_step(record)
            if distributed.any_of(stopped.is_set()) or step + 1 == stop_at:
                distributed.from_first(save)  # nobody ends before it is written
                where = f"saved to {part}, run the same again to go on" if part else "nothing saved"
                raise Interrupted(f"{title} stopped after step {step + 1} of {steps}: {where}")
            if time.perf_counter() - last_save > save_every:
                save()
                last_save = time.perf_counter()
    if done < steps:
        if not all(checkpoints.finite(state.state_dict()) for state in states.values()):
            raise UserError(f"{title}: the last step left weights that are not finite: try a "
                            "smaller learning rate")  # fmt: skip
        distributed.from_first(save)  # what comes after the last step may be stopped, too
    return history


def _restored(states: dict[str, Stateful], saved: dict[str, Any], steps: int) -> list[Record]:
    """Give `states` what an unfinished run saved; returns its records. Errors of many kinds when it
    does not fit: what an optimiser would stumble over later shall be found now."""
    if not checkpoints.finite({name: saved[name] for name in states}):
        raise ValueError("not finite")
    for name, state in states.items():
        if not isinstance(state, torch.optim.Optimizer):
            state.load_state_dict(saved[name])
            continue
        # its options are the caller's, and not to be taken from a file
        state.load_state_dict({**state.state_dict(), "state": saved[name]["state"]})
        for parameter, kept in state.state.items():
            shapes = [v.shape for v in kept.values() if v is not None]
            if not {*shapes} <= {parameter.shape, torch.Size()}:
                raise ValueError("not of the parameter's shape")
        each = (frozenset(k for k, v in kept.items() if v is not None)
                for kept in state.state.values())  # fmt: skip
        if len({*each}) > 1:
            raise KeyError("not the same for all parameters")
    history = saved["history"]
    if [record["step"] for record in history] != list(range(1, min(len(history), steps) + 1)):
        raise ValueError("steps")
    if not all(isinstance(v, int | float) for record in history for v in record.values()):
        raise TypeError("history")
    return [record | {"seconds": float(record["seconds"])} for record in history]


def warm_cosine(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step (from 0): up in a line for a twentieth of the
    steps, then down to 0 along a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5)."""
    warm = max(1, steps // 20)
    decay = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
    return min(1.0, (step + 1) / warm) * decay


@contextmanager
def calibration(out: Path | None) -> Iterator[None]:
    """What comes after a training's last step, and may be stopped: Interrupted then says what is
    left of the training."""
    try:
        yield
    except Interrupted as error:
        kept = "the training is kept, run the same again to go on" if out else "nothing saved"
        raise Interrupted(f"calibration stopped: {kept}") from error


def finish(out: Path) -> None:
    """Remove what an unfinished run left, once the weights are written."""
    out.with_name(out.name + ".part").unlink(missing_ok=True)


def finished(out: Path, run_key: str) -> bool:
    """Whether the weights of the run are written."""
    done = checkpoints.stored_key(out) == run_key
    if done and checkpoints.stored_key(out.with_name(out.name + ".part")) == run_key:
        finish(out)  # it was stopped just before that
    return done
