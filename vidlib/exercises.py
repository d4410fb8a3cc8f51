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
    if p.grad is None:
        raise NotYet("no gradient flows into p: detach z, and z alone")
    if z.grad is not None and z.grad.abs().sum() > 0:
        raise NotYet("gradient flows into z: stop it with z.detach()")
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
    alike = torch.randn(16, generator=torch.Generator().manual_seed(1)).repeat(8, 1)
    if abs(float(measure(alike))) > 1e-5:
        raise NotYet("rows that are all alike should give 0: the spread is over rows, dim=0")
    return "1 for random directions, 0 for a single point"


# --- 03, see what it learned ---------------------------------------------------------------------


@told
def check_few_labels(few_labels: Any) -> str:
    """A function of N labels, a count and a seed that returns indices of `count` clips of each
    label, drawn at random."""
    labels = ["running"] * 40 + ["boxing"] * 20 + ["waving"] * 40  # in order, and not balanced
    found = few_labels(labels, 4, 0)
    if found is None or found is ...:
        raise NotYet("few_labels returns nothing: return the chosen indices")
    chosen = np.asarray(found).ravel()
    if chosen.dtype.kind not in "iu":
        raise NotYet(f"return indices, whole numbers, not {chosen.dtype} values")
    counts = {a: sum(labels[i] == a for i in chosen) for a in dict.fromkeys(labels)}
    if len(chosen) == 4:
        raise NotYet("4 clips in all: `count` of each action are wanted, so 12 here")
    if set(counts.values()) != {4}:
        raise NotYet(f"4 of each action are wanted, not {counts}")
    if len(set(chosen.tolist())) < len(chosen):
        raise NotYet("a clip is chosen twice: draw without replacement")
    if set(chosen.tolist()) != set(np.ravel(few_labels(labels, 4, 0)).tolist()):
        raise NotYet("the same seed gives other clips: use np.random.default_rng(seed)")
    if {tuple(sorted(np.ravel(few_labels(labels, 4, seed)))) for seed in range(1, 5)} == {
        tuple(sorted(chosen))
    }:
        raise NotYet("another seed gives the same clips: draw at random, not the first ones")
    return "as many of each action, drawn at random"


@told
def check_neighbours_elsewhere(neighbours: Any) -> str:
    """A function of vectors (N, D), N people and k that returns the indices (N, k) of the k
    nearest by cosine among other people's."""
    rng = np.random.default_rng(0)
    v, people, k = rng.normal(size=(24, 6)), list("abcdef" * 4), 3
    v *= rng.uniform(0.1, 10, (24, 1))  # cosine does not see lengths; other distances do
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.equal.outer(people, people)
    right = np.argsort(np.where(same, -2, cosine) * -1, axis=1)[:, :k]
    found = neighbours(v.copy(), list(people), k)
    if found is None or found is ...:
        raise NotYet("neighbours_elsewhere returns nothing: return indices (N, k)")
    got = np.asarray(found)
    if got.shape != right.shape:
        raise NotYet(f"expected shape {right.shape}, one row a clip, got {got.shape}")
    rows = np.arange(len(v))[:, None]
    if (got == rows).any():
        raise NotYet("a clip is its own neighbour: it is a clip of the same person")
    if same[rows, got].any():
        raise NotYet("some neighbours are the same person: leave that person's clips out")
    if (np.sort(got) == np.sort(right)).all() and (got != right).any():
        raise NotYet("the right neighbours in another order: the nearest comes first")
    if (got == np.argsort(np.where(same, 2, cosine), axis=1)[:, :k]).all():
        raise NotYet("these are the farthest: the largest cosine is the nearest")
    if (got != right).any():
        raise NotYet("other neighbours than by cosine: divide each vector by its length first")
    return "the nearest among other people"


# --- 04, train the Transformer -------------------------------------------------------------------


@told
def check_masked_pool(pool: Any) -> str:
    """A function of features (B, T, D) and valid (B, T), NumPy arrays, that returns mean and
    spread over the valid frames side by side, (B, 2 D)."""
    rng = np.random.default_rng(0)
    x, valid = rng.normal(size=(3, 8, 5)) + 2, np.arange(8) < np.array([[8], [5], [3]])
    x[~valid] = 0  # as take_window pads
    kept = [f[v] for f, v in zip(x, valid, strict=True)]
    right = np.stack([np.concatenate([f.mean(0), f.std(0)]) for f in kept])
    found = pool(x.copy(), valid.copy())
    if found is None or found is ...:
        raise NotYet("masked_pool returns nothing: return an array (B, 2 D)")
    got = np.asarray(found, float)
    if got.shape != right.shape:
        raise NotYet(f"expected shape {right.shape}, got {got.shape}")
    if np.allclose(got[:, :5], x.mean(1)):
        raise NotYet("the mean counts the padding: divide by the number of valid frames, not by T")
    if not np.allclose(got[:, :5], right[:, :5]):
        raise NotYet("the first half should be the mean over the valid frames")
    if np.allclose(got[:, 5:], x.std(1)):
        raise NotYet("the spread counts the padding: leave out the frames that are not valid")
    if np.allclose(got[:, 5:], right[:, 5:] ** 2):
        raise NotYet("the second half is the variance: take its square root")
    if not np.allclose(got[:, 5:], right[:, 5:]):
        raise NotYet("the second half should be the spread (np.std) over the valid frames; "
                     "padding minus the mean is not zero")  # fmt: skip
    x[~valid] = 1e6
    if not np.allclose(pool(x, valid.copy()), right):
        raise NotYet("what stands in the padding changes the result: use `valid`, not the zeros")
    return "padding does not change it"


@told
def check_shuffled(shuffled: Any) -> str:
    """A function of one clip's features (T, D) and a seed that returns the same frames in a
    random order."""
    x = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    before = x.copy()
    found = shuffled(x, 0)
    if found is None or found is ...:
        raise NotYet("shuffled returns nothing: return an array (T, D)")
    got = np.asarray(found)
    if (x != before).any():
        raise NotYet("the clip you were given has changed: shuffle a copy "
                     "(rng.permutation makes one, rng.shuffle does not)")  # fmt: skip
    if got.shape != x.shape:
        raise NotYet(f"expected shape {x.shape}, got {got.shape}")
    order = [np.flatnonzero((x == row).all(1)) for row in got]
    if any(len(at) != 1 for at in order):
        raise NotYet("a frame of the result is no frame of the clip: move whole rows (axis 0)")
    at = [int(i[0]) for i in order]
    if len(set(at)) < len(at):
        raise NotYet("a frame appears twice and another is lost: permute, do not draw")
    if at in (list(range(24)), list(range(23, -1, -1))):
        raise NotYet("the frames are in their old order, or just reversed: shuffle them")
    if not np.array_equal(got, shuffled(x, 0)):
        raise NotYet("the same seed gives another order: use np.random.default_rng(seed)")
    if all(np.array_equal(got, shuffled(x, seed)) for seed in range(1, 4)):
        raise NotYet("every seed gives the same order: hand the seed to np.random.default_rng")
    return "the same frames, another order"


# --- 06, real videos -----------------------------------------------------------------------------


@told
def check_sides(sides: Any) -> str:
    """A function of the lines of an HMDB51 list that returns (names to train on, names to test),
    each in the order of the lines."""
    lines = ["April_brush_hair_u_nm_np1_ba_goo_0.avi 1 ", "Bob_brush_hair_u_cm_np1_fr_med_0.avi 2",
             "April_brush_hair_u_nm_np1_ba_goo_1.avi 1 ", "Bun_brush_hair_h_nm_np1_le_goo_2.avi 0 ",
             "", "Soft_brush_hair_f_nm_np1_ba_bad_1.avi 2 "]  # fmt: skip
    names = [line.split()[0] if line else "" for line in lines]
    right = [names[0], names[2]], [names[1], names[5]]
    found = sides(list(lines))
    if found is None or found is ...:
        raise NotYet("sides returns nothing: return (names to train on, names to test)")
    train, test = (list(part) for part in found)
    if (train, test) == right[::-1]:
        raise NotYet("the sides are exchanged: 1 is training, 2 is testing")
    if names[3] in (*train, *test):
        raise NotYet("a clip with 0 is in neither side of this split: leave it out")
    if any(name != name.strip() or name.endswith((" 1", " 2")) for name in (*train, *test)):
        raise NotYet("a name still has its number or a space: the lines end with a space now and "
                     "then, so split() them")  # fmt: skip
    if "" in (*train, *test):
        raise NotYet("the empty line became a clip: skip lines without a name")
    if (sorted(train), sorted(test)) == tuple(map(sorted, right)) and (train, test) != right:
        raise NotYet("the right names in another order: keep that of the lines")
    if (train, test) != right:
        raise NotYet(f"expected {len(right[0])} names to train on and {len(right[1])} to test, "
                     f"{right[0][0]} first; got {len(train)} and {len(test)}")  # fmt: skip
    return "1 trains, 2 tests, 0 does neither"


@told
def check_shared_films(shared_films: Any) -> str:
    """A function of UCF101's file names on either side that returns the films which are on both,
    as a sorted list of <Action>_gNN."""
    train = ["v_Archery_g01_c01.avi", "v_Archery_g01_c02.avi", "v_Archery_g02_c01.avi",
             "v_YoYo_g03_c01.avi", "v_YoYo_g04_c02.avi"]  # fmt: skip
    test = ["v_Archery_g01_c03.avi", "v_Archery_g03_c01.avi", "v_YoYo_g04_c01.avi",
            "v_YoYo_g04_c03.avi", "v_YoYo_g02_c01.avi"]  # fmt: skip
    found = shared_films(list(train), list(test))
    if found is None or found is ...:
        raise NotYet("shared_films returns nothing: return a sorted list such as ['Archery_g01']")
    found, right = [str(name) for name in found], ["Archery_g01", "YoYo_g04"]
    if set(found) == {"g01", "g02", "g03", "g04"} or {"Archery_g03", "YoYo_g02"} & set(found):
        raise NotYet("group 3 of Archery and group 3 of YoYo are two films: action and group "
                     "together name one")  # fmt: skip
    if set(found) == {"Archery", "YoYo"}:
        raise NotYet("every action is on both sides, as it must be: it is the films that must not")
    if not found:
        raise NotYet("no clip is on both sides, but clips of one film are: drop the _cNN and the "
                     "ending before you compare")  # fmt: skip
    if sorted(found) == ["Archery_g01", "YoYo_g04", "YoYo_g04"]:
        raise NotYet("a film is named once, however many of its clips there are")
    if sorted(found) == right and found != right:
        raise NotYet("the right films: sort them")
    if found != right:
        raise NotYet(f"expected {right}, got {found}")
    return "a film is an action and a group, and it lies on one side only"


# --- 07, better pre-training ---------------------------------------------------------------------


@told
def check_partners(partners: Any) -> str:
    """A function of frames' indices (F,), the clip's length in frames, a gap in seconds and the
    frames per second that returns the indices of the frames a gap later, or earlier where the clip
    has ended."""
    at = np.array([0, 5, 12, 20, 23])

    def run(gap: float, length: int = 24, fps: float = 12.0) -> Any:
        before = at[at < length].copy()
        given = before.copy()
        found = partners(given, length, gap, fps)
        if found is None or found is ...:
            raise NotYet("partners returns nothing: return an array (F,) of indices")
        found = np.asarray(found)
        if (given != before).any():
            raise NotYet("the indices you were given have changed: make a new array")
        if found.shape != before.shape:
            raise NotYet(f"expected shape {before.shape}, one partner a frame, got {found.shape}")
        if found.dtype.kind not in "iu":
            raise NotYet(f"indices are whole numbers, not {found.dtype} values: use round()")
        return found

    found = run(0.25)
    right = np.array([3, 8, 15, 23, 20])
    if np.array_equal(found, at):
        raise NotYet("every frame is its own partner: 0.25 s at 12 frames a second are 3 frames")
    if found.max() > 23:
        raise NotYet("frame 23 is the clip's last: where there is no later one, go back instead")
    if found[-1] == 23:
        raise NotYet("the last frame is its own partner: cut off at the end, the gap is gone; take "
                     "the frame as far before it")  # fmt: skip
    if found.min() < 0 or (found[:3] < at[:3]).any():
        raise NotYet("go back only where the clip has ended: a later frame is wanted first")
    if not np.array_equal(found, right):
        raise NotYet(f"expected {right.tolist()}, got {found.tolist()}")
    if np.array_equal(run(0.25, fps=24.0), found):
        raise NotYet("at 24 frames a second 0.25 s are 6 frames: use fps")
    long = run(1.0, length=8)
    if long.min() < 0 or long.max() > 7:
        raise NotYet("a clip of 8 frames has nothing 12 frames away: stay inside, 0 to length - 1")
    if not np.array_equal(run(0.0), at):
        raise NotYet("without a gap a frame is its own partner")
    return "a gap in seconds, later or earlier, and never outside the clip"


@told
def check_mirrored(mirrored: Any) -> str:
    """A function of clips, float (B, T, 3, H, W), and a torch.Generator that returns them, each
    mirrored left to right as a whole or not at all, half of them at random."""
    import torch

    x = torch.rand(64, 5, 3, 6, 8, generator=torch.Generator().manual_seed(0))

    def run(seed: int) -> Any:
        given = x.clone()
        found = mirrored(given, torch.Generator().manual_seed(seed))
        if found is None or found is ...:
            raise NotYet("mirrored returns nothing: return a tensor (B, T, 3, H, W)")
        if not torch.equal(given, x):
            raise NotYet("the clips you were given have changed: make new ones (torch.where does)")
        if found.shape != x.shape:
            raise NotYet(f"expected shape {tuple(x.shape)}, got {tuple(found.shape)}")
        return found

    found, over = run(0), x.flip(-1)
    frame = [(found == side).flatten(2).all(2) for side in (x, over)]  # (B, T) each
    if (found == x.flip(1)).flatten(1).all(1).any():
        raise NotYet("some clips play backwards: dimension 1 is time, the width is the last one")
    if (found == x.flip(-2)).flatten(1).all(1).any():
        raise NotYet("some clips stand on their heads: the width is the last dimension")
    if not (frame[0] | frame[1]).all():
        raise NotYet("some frames are neither as they were nor mirrored: use x.flip(-1)")
    if not (frame[0].all(1) | frame[1].all(1)).all():
        raise NotYet("within a clip some frames are mirrored and others not, which looks like "
                     "motion: draw one number a clip")  # fmt: skip
    share = frame[1].all(1).float().mean().item()
    if share in (0.0, 1.0):
        raise NotYet("all clips have one fate: draw a number for each clip of the batch")
    if not 0.25 < share < 0.75:
        raise NotYet(f"about half of the clips should be mirrored, not {share:.0%}")
    if not torch.equal(found, run(0)):
        raise NotYet("the same generator state gives other clips: hand generator=rng to torch.rand")
    if all(torch.equal(found, run(seed)) for seed in range(1, 4)):
        raise NotYet("every seed mirrors the same clips: hand generator=rng to torch.rand")
    return "each clip as a whole, half of them"


# --- 01, look at the data ------------------------------------------------------------------------


@told
def check_energy(energy: Any) -> str:
    """A function of frames uint8 (T, H, W, 3) that returns the mean absolute change of a pixel
    from each frame to the next, (T - 1,)."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    signed = np.diff(frames.astype(float), axis=0)
    right = np.abs(signed).mean((1, 2, 3))
    found = energy(frames)
    if found is None or found is ...:
        raise NotYet("the function returns nothing: return an array (T - 1,)")
    found = np.asarray(found, float)
    if found.ndim == 0:
        raise NotYet("one number for each pair of frames, not one for the clip: mean over H, W, 3")
    if found.shape != right.shape:
        raise NotYet(f"{len(frames)} frames have {len(right)} changes: expected the shape "
                     f"{right.shape}, got {found.shape}")  # fmt: skip
    if np.allclose(found, np.diff(frames, axis=0).mean((1, 2, 3))):
        raise NotYet("uint8 has no negative, 3 - 5 gives 254: change the type before subtracting")
    if np.allclose(np.abs(found), np.abs(signed.mean((1, 2, 3)))):
        raise NotYet("brighter and darker cancel out: absolute value first, then the mean")
    if not np.allclose(found, right):
        raise NotYet(f"expected {right.round(2)}, got {found.round(2)}")
    return "the mean absolute change from each frame to the next"


@told
def check_hold_out(hold_out: Any) -> str:
    """A function of the person of each of N clips, a fraction and a seed that returns which clips
    are for testing, (N,) bool: all those of about that fraction of the people."""
    people = [f"person {i}" for i in (0, 1, 2, 3, 4, 5, 6, 7) for _ in range(2 + 3 * (i % 3))]
    people = [people[i] for i in np.random.default_rng(0).permutation(len(people))]

    def run(*arguments: Any) -> Any:
        found = hold_out(*arguments)
        if found is None or found is ...:
            raise NotYet("the function returns nothing: return an array (N,) of True and False")
        found = np.asarray(found)
        if found.shape != (len(arguments[0]),) or found.dtype != bool:
            raise NotYet("return True or False for each clip: an array (N,) of bool, not a list of "
                         "people or of places")  # fmt: skip
        return found

    for seed in range(4):
        held = run(people, 0.25, seed)
        tested = {p for p, h in zip(people, held, strict=True) if h}
        if both := sorted(tested & {p for p, h in zip(people, held, strict=True) if not h}):
            raise NotYet(f"{both[0]} is on both sides: draw people, not clips")
        if len(tested) != 2:
            raise NotYet(f"a quarter of 8 people is 2, not {len(tested)}")
        if not np.array_equal(held, run(people, 0.25, seed)):
            raise NotYet("the same seed gives another split: use np.random.default_rng(seed), and "
                         "sort the people, since a set has no order")  # fmt: skip
    if all(np.array_equal(run(people, 0.25, seed), held) for seed in range(8)):
        raise NotYet("every seed gives the same people: hand it to np.random.default_rng")
    if len({p for p, h in zip(people, run(people, 0.01, 0), strict=True) if h}) != 1:
        raise NotYet("a small fraction leaves nobody to test with: at least one person")
    return "nobody is on both sides"
