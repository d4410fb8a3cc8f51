"""Rules that hold for whatever is put in: which frames are shown, what is hidden, who is tested,
what a key stands for."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import rounds
from vidlib import catalog, checkpoints, datasets, pretraining, probes, sampling, training, video
from vidlib.catalog import Clip
from vidlib.datasets import Fold
from vidlib.sampling import FrameCache
from vidlib.settings import PretrainConfig, TrainConfig, UserError
from vidlib.temporal import TemporalTransformer, center, hide
from vidlib.tubelets import split, tube_mask

pytestmark = pytest.mark.soak
often = settings(
    deadline=None, max_examples=rounds(1200), suppress_health_check=[HealthCheck.too_slow]
)
seeds = st.integers(0, 2**32 - 1)

# -- sampling --


@often
@given(st.integers(1, 300), st.integers(1, 40), seeds)
def test_a_spread_draw_takes_one_frame_of_each_part(length: int, count: int, seed: int) -> None:
    at = pretraining.spread_draw(length, count, np.random.default_rng(seed))
    assert len(at) == count and (np.diff(at) >= 0).all() and 0 <= at[0] and at[-1] < length
    edges = np.linspace(0, length, count + 1)
    assert (at >= np.floor(edges[:-1])).all() and (at <= np.ceil(edges[1:])).all()
    if length >= count:  # no part is left out, and none is shown twice as often
        assert len(set(at)) >= count / 2
    again = pretraining.spread_draw(length, count, np.random.default_rng(seed))
    np.testing.assert_array_equal(at, again)


@often
@given(st.integers(1, 400), st.floats(0.5, 120), st.floats(0.5, 60))
def test_a_film_in_memory_shows_what_was_on_the_screen(count: int, fps: float, grid: float) -> None:
    times = max(1, round(count / fps * grid))
    at = video.shown(times, fps, grid)
    assert at[0] == 0 and (np.diff(at) >= 0).all()
    now = np.arange(times) / grid
    assert (at / fps <= now + 2 * video.TICK).all()  # never a frame that comes later
    assert (now < (at + 1) / fps + video.TICK).all()  # and none that was replaced before


@often
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 8), st.integers(1, 7))
def test_clips_of_a_film_lie_inside_it_in_order(
    count: int, length: int, stride: int, clips: int
) -> None:
    at = sampling.clip_frames(count, length, stride, clips)
    assert 1 <= len(at) <= clips and at.shape[1] == length
    assert (at >= 0).all() and (at < count).all() and (np.diff(at, axis=1) >= 0).all()
    assert set(np.diff(at, axis=1).flat) <= {0, stride}
    assert len({row.tobytes() for row in at}) == len(at)  # no clip is counted twice
    if clips > 1 and count > length * stride:
        assert at[0, 0] == 0 and at[-1, -1] == (-(-count // stride) - 1) * stride


@often
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 32), st.integers(1, 4))
def test_crops_are_square_and_reach_both_ends(
    height: int, width: int, size: int, count: int
) -> None:
    long = max(height, width)
    ramp = np.linspace(0, 255, long).astype(np.uint8)
    grey = np.broadcast_to(ramp if width >= height else ramp[:, None], (height, width))
    cut = sampling.crops(np.stack([grey] * 3, 2), size, count)
    assert cut.shape == (count, size, size, 3) and cut.dtype == np.uint8
    near = 255 / min(size, long) + 2  # a pixel of the crop is the mean over its place
    if count > 1:
        assert cut[0].min() <= near and cut[-1].max() >= 255 * (long > 1) - near
    else:
        assert long == 1 or abs(cut.mean() - 127.5) <= near


@often
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 20), st.integers(1, 25))
def test_windows_hold_each_clips_frames_and_nobody_elses(
    lengths: list[int], window: int, stride: int
) -> None:
    clips = [np.stack([np.full(n, i), np.arange(n)], 1).astype(np.float32)
             for i, n in enumerate(lengths)]  # fmt: skip
    x, valid, owner, starts = training.windows(clips, window, stride)
    assert x.shape[:2] == valid.shape == (len(owner), window)
    for row, keep, clip, start in zip(x, valid, owner, starts, strict=True):
        assert keep.any() and (row[~keep] == 0).all()
        assert (row[keep][:, 0] == clip).all()
        np.testing.assert_array_equal(row[keep][:, 1], start + np.arange(int(keep.sum())))
    seen = {(int(c), int(t)) for row, keep in zip(x, valid, strict=True) for c, t in row[keep]}
    assert seen == {(i, t) for i, n in enumerate(lengths) for t in range(n)}


@often
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 20),
       st.floats(0, 1), seeds)  # fmt: skip
def test_random_windows_are_runs_of_frames_of_their_clip(
    lengths: list[int], window: int, shortest: float, seed: int
) -> None:
    config = replace(TrainConfig(), window=window, shortest=shortest)
    clips = [np.arange(100 * i, 100 * i + n, dtype=np.float32)[:, None]
             for i, n in enumerate(lengths)]  # fmt: skip
    x, valid = training.random_windows(clips, config, np.random.default_rng(seed))
    for i, (row, keep) in enumerate(zip(x[..., 0], valid, strict=True)):
        run, most = row[keep], min(lengths[i], window)
        assert max(1, round(most * shortest)) <= len(run) <= most
        assert (run.diff() == 1).all() and run[0] >= 100 * i and run[-1] < 100 * i + lengths[i]
        assert keep[: len(run)].all() and (row[~keep] == 0).all()


# -- masks --

masks = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 24).flatmap(
        lambda length: st.lists(st.integers(1, length), min_size=rows, max_size=rows).map(
            lambda counts: torch.arange(length) < torch.tensor(counts)[:, None]
        )
    )
)


@often
@given(masks, st.floats(0, 1), st.integers(1, 6), seeds)
def test_hidden_frames_are_valid_ones_and_one_is_seen(
    valid: torch.Tensor, share: float, run: int, seed: int
) -> None:
    hidden = hide(valid, share, run, torch.Generator().manual_seed(seed))
    assert hidden.shape == valid.shape and not (hidden & ~valid).any()
    for count, gone in zip(valid.sum(1).tolist(), hidden.sum(1).tolist(), strict=True):
        assert (
            gone == min(max(1, round(share * count)), count - 1)
            or abs(gone - share * count) <= 0.5 + 1e-4
        )  # halves may be rounded to either side


@often
@given(masks, seeds)
def test_centring_takes_the_valid_frames_mean_alone(valid: torch.Tensor, seed: int) -> None:
    x = torch.randn(*valid.shape, 3, generator=torch.Generator().manual_seed(seed))
    out = center(x, valid)
    assert (out[~valid] == 0).all()
    torch.testing.assert_close(out.sum(1), torch.zeros(len(x), 3), atol=1e-4, rtol=0)
    moved = center(x + 5, valid)  # a still offset, padding included, is not seen
    torch.testing.assert_close(moved, out, atol=1e-4, rtol=0)


@settings(often, max_examples=rounds(300))
@given(masks, seeds, st.sampled_from(["mean", "cls"]))
def test_attention_is_a_share_of_the_valid_frames(
    valid: torch.Tensor, seed: int, pool: str
) -> None:
    torch.manual_seed(seed)
    model = TemporalTransformer(3, 2, 8, 1, 2, window=valid.shape[1], pool=pool).eval()
    with torch.inference_mode():
        weights = model.attention(torch.randn(*valid.shape, 3), valid)
    assert (weights >= 0).all() and (weights[~valid] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(valid)))


@often
@given(st.integers(1, 5), st.integers(1, 6), st.integers(2, 40), st.floats(0.01, 0.99), seeds)
def test_tubes_are_split_into_visible_and_hidden_tokens(
    batch: int, slices: int, patches: int, ratio: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    if not 0 < int(ratio * patches) < patches:
        with pytest.raises(ValueError, match="choose another"):
            tube_mask(batch, slices, patches, ratio, draw)
        return
    mask = tube_mask(batch, slices, patches, ratio, draw)
    visible, hidden = split(mask)
    assert hidden.shape == (batch, slices * int(ratio * patches))
    both = torch.cat([visible, hidden], 1).sort(1).values
    assert (both == torch.arange(slices * patches)).all()
    assert mask.gather(1, hidden).all() and not mask.gather(1, visible).any()
    assert (visible.diff(dim=1) > 0).all() and (hidden.diff(dim=1) > 0).all()


# -- splits --

people = st.lists(st.sampled_from(["ann", "bob", "cy", "di", None]), min_size=1, max_size=24)


@often
@given(people, st.integers(1, 5))
def test_a_persons_clips_are_in_one_fold(names: list[str | None], folds: int) -> None:
    fold = training.people_folds(names, folds)
    assert len(fold) == len(names)
    who = [name or f"unknown {i}" for i, name in enumerate(names)]
    assert len({(w, int(f)) for w, f in zip(who, fold, strict=True)}) == len(set(who))
    counts = np.bincount(fold)
    assert (counts > 0).all() and len(counts) == min(folds, len(set(who)))


def clips_of(names: list[str | None], actions: list[str | None]) -> list[Clip]:
    return [
        Clip(Path(f"/v/{name}_{i}x.avi"), actions[i % len(actions)], name)
        for i, name in enumerate(names)
    ]


some_actions = st.lists(st.sampled_from(["run", "walk", None]), min_size=1, max_size=5)


@often
@given(people, some_actions)
def test_leaving_one_person_out_tests_everybody_once(
    names: list[str | None], actions: list[str | None]
) -> None:
    clips = clips_of(names, actions)
    if None in names or len(set(names)) < 2:
        with pytest.raises(UserError, match="person"):
            list(catalog.leave_one_person_out(clips))
        return
    tested = []
    for person, train, test in catalog.leave_one_person_out(clips):
        assert {c.person for c in test} == {person} and person not in {c.person for c in train}
        assert len(train) + len(test) == len(clips)
        tested += test
    assert sorted(tested, key=lambda c: c.path) == sorted(clips, key=lambda c: c.path)


@often
@given(people, some_actions, st.integers(0, 9), st.floats(0.01, 0.99))
@pytest.mark.filterwarnings("ignore:a random split")
def test_a_random_fold_keeps_every_action_in_train(
    names: list[str | None], actions: list[str | None], seed: int, fraction: float
) -> None:
    clips = clips_of(names, actions)
    known = catalog.labelled(clips)
    try:
        fold: Fold = datasets.random_fold(clips, seed, fraction)
    except UserError as error:
        assert "both sides need some" in str(error)
        assert all(sum(c.action == a for c in known) < 2 for a in catalog.actions(known))
        return
    assert sorted([*fold.train, *fold.test], key=lambda c: c.path) == sorted(
        known, key=lambda c: c.path
    )
    assert catalog.actions(fold.train) == catalog.actions(known)


@often
@given(people.filter(lambda p: len(p) > 1), some_actions, st.integers(0, 9), st.randoms())
def test_a_split_depends_on_the_clips_and_the_seed_alone(
    names: list[str | None], actions: list[str | None], seed: int, chance: Any
) -> None:
    """Given sides are kept, whatever else the clips say."""
    clips = [replace(c, split=("train", "val")[i % 2])
             for i, c in enumerate(clips_of(names, actions))]  # fmt: skip
    train, val, note = catalog.split_train_val(clips, seed)
    assert {c.split for c in train} == {"train"} and {c.split for c in val} == {"val"}
    both = {c.person for c in train} & {c.person for c in val} - {None}
    assert all(name in note for name in both)
    mixed = chance.sample(clips, len(clips))
    again = catalog.split_train_val(mixed, seed)
    assert set(again[0]) == set(train) and again[2] == note


@often
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_an_interval_holds_between_nothing_and_all(answers: list[tuple[bool, str]]) -> None:
    correct, who = np.array([a for a, _ in answers]), [p for _, p in answers]
    low, high = probes.bootstrap_by_person(correct, who, draws=50)
    means = [correct[[p == name for p in who]].mean() for name in set(who)]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9


# -- keys --

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=8,
)  # fmt: skip


@often
@given(st.lists(plain, max_size=4), st.lists(plain, max_size=4))
def test_keys_are_equal_where_what_they_stand_for_is(one: list[Any], other: list[Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (checkpoints.key(*one) == checkpoints.key(*other)) == same
    turned = [dict(reversed(v.items())) if isinstance(v, dict) else v for v in one]
    assert checkpoints.key(*one) == checkpoints.key(*turned)


@often
@given(st.data())
def test_every_setting_is_in_the_key(data: st.DataObject) -> None:
    """A changed setting never finds what was made by another."""
    base = data.draw(st.sampled_from([PretrainConfig(), TrainConfig()]))
    field = data.draw(st.sampled_from(fields(base)))
    low, high = field.metadata["low"], field.metadata["high"]
    value = getattr(base, field.name)
    other = {
        bool: lambda: not value,
        int: lambda: data.draw(st.integers(int(low), int(min(high, 10**6)))),
        float: lambda: data.draw(st.floats(low, min(high, 1e6))),
        str: lambda: data.draw(st.sampled_from([*field.metadata["among"], "other"])),
    }[type(value)]()
    try:
        changed = replace(base, **{field.name: other})
    except UserError:
        return
    keys = [checkpoints.key("train", vars(c)) for c in (base, changed)]
    assert (keys[0] == keys[1]) == (other == value and not _negative_zero(other, value))


def _negative_zero(a: Any, b: Any) -> bool:
    return isinstance(a, float) and math.copysign(1, a) != math.copysign(1, b)


arrays = st.lists(
    st.builds(
        lambda shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32),
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
        st.integers(0, 3),
    ),
    max_size=3,
)


@often
@given(arrays, arrays)
def test_arrays_keys_tell_shapes_and_values_apart(a: list[Any], b: list[Any]) -> None:
    same = len(a) == len(b) and all(
        x.shape == y.shape and (x == y).all() for x, y in zip(a, b, strict=True)
    )
    assert (checkpoints.arrays_key(a) == checkpoints.arrays_key(b)) == same
    assert checkpoints.arrays_key(a) == checkpoints.arrays_key([np.asfortranarray(x) for x in a])


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Path]:
    folder, numbers = tmp_path_factory.mktemp("keys"), itertools.count()

    def write(content: bytes) -> Path:
        path = folder / f"{next(numbers)}.webm"
        path.write_bytes(content)
        return path

    return write


@often
@given(
    st.binary(max_size=40), st.binary(max_size=40),
    *[st.tuples(st.sampled_from([32, 64]), st.sampled_from([12.0, 12.5, 25.0]),
                st.sampled_from([10.0, 20.0]), st.sampled_from(["none", "median", "follow"]))] * 2,
)  # fmt: skip
def test_a_frame_caches_keys_are_content_and_parameters(
    cached: Callable[[bytes], Path], one: bytes, other: bytes, how: tuple, else_: tuple
) -> None:
    """ "median" is subtracted from the frames of "none" later, so both share a file."""
    names = "size", "fps", "max_seconds", "background"
    a, b = (FrameCache(**dict(zip(names, h, strict=True))) for h in (how, else_))
    seen = [(*h[:3], h[3] == "follow") for h in (how, else_)]
    same = one == other and seen[0] == seen[1]
    assert (a.key(cached(one)) == b.key(cached(other))) == same


@often
@given(st.lists(st.tuples(st.binary(max_size=4), st.sampled_from(["run", "walk", None])),
                max_size=6), st.randoms())  # fmt: skip
def test_a_fingerprint_is_of_the_set_of_clips(
    cached: Callable[[bytes], Path], content: list[tuple[bytes, str | None]], chance: Any
) -> None:
    clips = [Clip(cached(data), action) for data, action in content]
    mixed = [replace(c, path=cached(c.path.read_bytes())) for c in chance.sample(clips, len(clips))]
    assert catalog.fingerprint(clips) == catalog.fingerprint(mixed)
    if clips:
        assert catalog.fingerprint(clips) != catalog.fingerprint(clips[1:])
        changed = replace(clips[0], action="other")
        assert catalog.fingerprint(clips) != catalog.fingerprint([changed, *clips[1:]])
