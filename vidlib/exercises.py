"""Checks of the notebooks' exercises.

Each takes the learner's answer, prints `ok: ...` or `not yet: ...` (what is missing, or the usual
mistake) and returns whether it is ok. An unfinished or broken answer is told, never raised.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


class NotYet(Exception):
    """What is missing from an answer, as one line."""


def told(check: Callable[[Any], str]) -> Callable[[Any], bool]:
    """Make a check of a function that raises NotYet, or returns what there is to say when ok."""

    @functools.wraps(check)
    def wrapped(answer: Any) -> bool:
        try:
            text = check(answer)
        except NotYet as lack:
            print(f"not yet: {lack}")
            return False
        except Exception as error:  # the learner's own; a traceback would hide the hint
            print(f"not yet: your code stops with {type(error).__name__}: {error}")
            return False
        print(f"ok: {text}")
        return True

    return wrapped


# --- 05, predict ---------------------------------------------------------------------------------


@told
def check_spans(spans: Any) -> str:
    """A function of window times (W, 2), probabilities (W, K) and K actions that returns
    [(start, end, action), ...]."""
    times = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [3.0, 5.0], [4.0, 6.5]])
    best = [1, 1, 0, 1, 1]
    right = [(0.0, 2.0, "waving"), (2.0, 3.0, "running"), (3.0, 6.5, "waving")]
    found = spans(times, np.eye(3)[best] * 0.7 + 0.1, ["running", "waving", "boxing"])
    if found is None or found is ...:
        raise NotYet("spans returns nothing: return a list of (start, end, action)")
    found = [(round(float(a), 6), round(float(b), 6), str(name)) for a, b, name in found]
    names = [name for _, _, name in found]
    if len(found) == len(best):
        raise NotYet("one span a window: join neighbours whose top action is the same")
    if names == ["waving", "running"] or names == ["running", "waving"]:
        raise NotYet("waving comes back after running: that is a span of its own")
    if names != [name for _, _, name in right]:
        raise NotYet(f"the top actions in turn are waving, running, waving, not {', '.join(names)}")
    if [b for _, b, _ in found[:-1]] != [a for a, _, _ in found[1:]]:
        raise NotYet("windows overlap: let a span end where the next one begins")
    if found != right:
        raise NotYet(f"expected {right}, got {found}")
    return "windows become spans, and an action that comes back gets a new one"


@told
def check_selective(selective: Any) -> str:
    """A function of probabilities (N, K), N true actions, K actions and a threshold that returns
    (share of clips answered, accuracy among those)."""
    p = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.3, 0.5], [0.3, 0.35, 0.35]])
    true, actions = ["boxing", "boxing", "waving", "waving"], ["boxing", "running", "waving"]
    found = selective(p, true, actions, 0.5)
    if found is None or found is ...:
        raise NotYet("selective returns nothing: return (share answered, accuracy among those)")
    share, accuracy = (float(v) for v in found)
    if np.isclose(share, 0.5):
        raise NotYet("a probability that equals the threshold is enough: compare with >=")
    if not np.isclose(share, 0.75):
        raise NotYet(f"3 of 4 clips have a top probability of 0.5 or more, so 0.75, not {share:g}")
    if np.isclose(accuracy, 0.5):
        raise NotYet("the accuracy is among the clips answered: divide by 3 here, not by 4")
    if not np.isclose(accuracy, 2 / 3):
        raise NotYet(f"2 of the 3 answers are right, so 0.667, not {accuracy:.3g}")
    share, accuracy = (float(v) for v in selective(p, true, actions, 0.95))
    if share != 0 or not np.isnan(accuracy):
        raise NotYet(
            "at 0.95 nothing is answered: the share is 0 and the accuracy nan, not a guess"
        )
    return "fewer answers, and you can say how good those are"


# --- 02, pre-train with SimSiam ------------------------------------------------------------------


@told
def check_loss(loss: Any) -> str:
    """A function of p, z (N, d) that returns their negative cosine similarity, z's gradient
    stopped."""
    import torch

    from .simsiam import negative_cosine

    p, z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)) * 3
    p.requires_grad_(), z.requires_grad_()
    found = loss(p, z)
    if found is None or found is ...:
        raise NotYet("the loss returns nothing: return a scalar tensor")
    right = negative_cosine(p, z)
    if getattr(found, "shape", None) != right.shape:
        raise NotYet("return one number: the mean over the batch")
    if torch.isclose(found, -right, atol=1e-5):
        raise NotYet("the sign: agreement should make the loss low, so minus the cosine")
    if not torch.isclose(found, right, atol=1e-5):
        raise NotYet(f"expected {right.item():.4f} on random input, got {found.item():.4f}: divide "
                     "each row's product by both rows' lengths, then average")  # fmt: skip
    if found.requires_grad:
        found.backward()
    if z.grad is not None and z.grad.abs().sum() > 0:
        raise NotYet("gradient flows into z: stop it with z.detach()")
    if p.grad is None:
        raise NotYet("no gradient flows into p: detach z alone")
    return "the negative cosine, with z's gradient stopped"


@told
def check_collapse(measure: Any) -> str:
    """A function of z (N, d): the spread of the normalised rows x sqrt(d)."""
    import torch

    from .simsiam import collapse_measure

    z = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    z = z * torch.linspace(0.1, 9, 512)[:, None]
    found = measure(z)
    if found is None or found is ...:
        raise NotYet("the measure returns nothing: return a number")
    found, right = float(found), collapse_measure(z)
    if abs(found - z.std(0).mean().item() * 4) < 1e-3:
        raise NotYet("long rows count more than short ones: bring every row to length 1 first")
    if abs(found - right / 4) < 1e-3:
        raise NotYet("for random directions that gives 1 / sqrt(d): multiply by sqrt(d)")
    if abs(found - right) > 1e-3:
        raise NotYet(f"expected {right:.3f} on random directions, got {found:.3f}: standard "
                     "deviation of each column, then the mean over columns")  # fmt: skip
    if float(measure(torch.ones(8, 16))) > 1e-6:
        raise NotYet("rows that are all alike should give 0")
    return "1 for random directions, 0 for a single point"
