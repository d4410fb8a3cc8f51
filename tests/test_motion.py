"""The camera held still, what moves followed: on pictures of which the truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlib import motion, studio
from vidlib.motion import ZERO

S = 96


def wall(seed: int = 0, side: int = S) -> np.ndarray:
    """A textured wall, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.uniform(0, 255, (side, side, 3)).astype(np.float32), (0, 0), 2.5)
    return np.clip((noise - noise.mean()) * 4 + 128, 0, 255).astype(np.uint8)


def film(shifts: np.ndarray, person: bool = True) -> np.ndarray:
    """A camera that moves by `shifts` (T, 2) before a wall, and a dark block that walks by."""
    big = wall(side=S + 40)
    if not person:
        frames = [big] * len(shifts)
    else:
        frames = []
        for k in range(len(shifts)):
            frames.append(big.copy())
            frames[-1][50:90, 30 + 2 * k : 42 + 2 * k] = (20, 40, 60)
    out = []
    for frame, (x, y) in zip(frames, shifts, strict=True):
        matrix = np.array([[1, 0, -20 - x], [0, 1, -20 - y]], float)
        out.append(cv2.warpAffine(frame, matrix, (S, S), flags=cv2.INTER_CUBIC))
    return np.stack(out)


@pytest.mark.parametrize("person", [False, True])
def test_a_shaken_camera_is_held_still(person: bool) -> None:
    """To a fifth of a pixel, with and without somebody walking through."""
    shifts = np.random.default_rng(1).uniform(-6, 6, (16, 2))
    frames = film(shifts, person)
    steady, found = motion.stabilise(frames)
    assert steady.shape == frames.shape and steady.dtype == np.uint8
    np.testing.assert_allclose(found, -(shifts - shifts[8]), atol=0.2)
    inner = (slice(None), slice(12, -12), slice(12, -12))
    before, after = (
        np.abs(x[inner].astype(int) - x[8][inner[1:]]).mean() for x in (frames, steady)
    )
    assert after < before / 3


@pytest.mark.parametrize("way", [(10, 0), (0, -10), (-8, 6)])
def test_what_a_turning_camera_did_not_see_does_not_move(way: tuple[int, int]) -> None:
    """Before a bare wall there is next to nothing, at the edges too; a person stays in the middle.
    Without the rule the means are 3.3 to 5.1, and the person's picture is half as strong."""
    shifts = np.linspace(-1, 1, 16)[:, None] * way
    nobody, somebody = (
        np.abs(motion.person(film(shifts, person), 64).astype(int) - ZERO).max(-1)
        for person in (False, True)
    )
    assert nobody.mean() < 1.5
    assert somebody[:, 16:48, 16:48].mean() > 30 * somebody[:, :, [0, 1, 62, 63]].mean()


@given(st.integers(1, 600), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_what_stands_still_is_the_lower_median(count: int, seed: int) -> None:
    """Also of more frames than a byte counts, and where most of them are alike."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, rng.choice([2, 256]), (count, 3, 5, 3)).astype(np.uint8)
    assert (motion.still(frames) == np.sort(frames, axis=0)[(count - 1) // 2]).all()


def test_a_still_camera_stays_as_it_is() -> None:
    """A person who fills much of the picture is not taken for the camera."""
    frames = np.repeat(wall()[None], 12, 0)
    for k, frame in enumerate(frames):
        frame[10:90, 10 + 3 * k : 50 + 3 * k] = wall(1)[10:90, :40]
    steady, found = motion.stabilise(frames)
    assert np.abs(found).max() < 0.05
    assert np.abs(steady.astype(int) - frames).mean() < 0.5


@pytest.mark.parametrize("level", [0, 128, 255])
def test_without_texture_nothing_is_shifted(level: int) -> None:
    frames = np.full((5, 32, 32, 3), level, np.uint8)
    steady, found = motion.stabilise(frames)
    assert (steady == frames).all() and not found.any()
    assert (motion.person(frames, 16) == ZERO).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(15, 80), st.integers(15, 80), st.integers(8, 30), st.integers(0, 9))
def test_what_moves_is_followed_and_fills_a_fair_part(x: int, y: int, side: int, seed: int) -> None:
    """A block that trembles anywhere, of any size, is near the middle of every picture and at
    least a sixth of it wide."""
    rng = np.random.default_rng(seed)
    moving = np.zeros((12, S, S, 3), np.int16)
    for frame in moving:
        a, b = np.maximum(rng.integers(-1, 2, 2) + (x - side // 2, y - side // 2), 0)
        frame[b : b + side, a : a + side] = 90
    out = motion.follow(moving, 64)
    assert out.shape == (12, 64, 64, 3)
    for picture in np.abs(out).sum(-1):
        across, down = picture.sum(0), picture.sum(1)
        at = np.arange(64)
        assert abs((across * at).sum() / across.sum() - 31.5) < 6
        assert abs((down * at).sum() / down.sum() - 31.5) < 6
        assert (across > across.max() / 2).sum() >= 10


def test_up_and_down_is_kept() -> None:
    """Who sits down sinks in the picture; who walks by does not leave it."""
    moving = np.zeros((12, S, S, 3), np.int16)
    for k, frame in enumerate(moving):
        frame[10 + 3 * k : 40 + 3 * k, 5 + 6 * k : 20 + 6 * k] = 80
    out = np.abs(motion.follow(moving, 64)).sum(-1).astype(float)
    rows = (out.sum(2) * np.arange(64)).sum(1) / out.sum((1, 2))
    columns = (out.sum(1) * np.arange(64)).sum(1) / out.sum((1, 2))
    assert (np.diff(rows) > 1).all() and rows[-1] - rows[0] > 15
    assert np.ptp(columns) < 20  # of 64; without following it would be all of them


def test_contrast_is_one_for_dark_and_bright_clothes_and_noise_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    background = np.full((12, S, S, 3), 100, np.uint8)
    for level in (40, 130, 250):
        frames = background.copy()
        for k, frame in enumerate(frames):
            frame[30:70, 20 + 4 * k : 35 + 4 * k] = level
        strong = np.abs(motion.person(frames, 64).astype(int) - ZERO).max()
        assert 90 <= strong <= 128, level
    noisy = background + rng.integers(0, 3, background.shape).astype(np.uint8)
    assert np.abs(motion.person(noisy, 64).astype(int) - ZERO).max() <= 12


def test_the_first_and_only_frame_is_a_clip_too() -> None:
    assert motion.person(wall()[None], 32).shape == (1, 32, 32, 3)


def test_a_drawn_persons_picture_is_of_the_person() -> None:
    """Of a walk through the picture the wall goes and the person stays in the middle."""
    frames = studio.draw_clip("walking", 3, 3, 0, size=96, fps=12.0, seconds=2.0)
    seen = np.abs(motion.person(frames, 64).astype(int) - ZERO).max(-1)
    assert seen[:, 16:48, 16:48].mean() > 4 * seen[:, :, [0, 1, 62, 63]].mean()
    assert motion.prepare(frames, 64, "none") is frames
    assert motion.source_size(64, "follow") == 128 and motion.source_size(64, "median") == 64
