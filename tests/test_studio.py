"""The studio: same numbers, same bytes; people and scenes of val unseen; nobody's files touched."""

import csv
import functools
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from vidlib import settings, studio, video

TINY = replace(
    settings.profile("quick"),
    people_train=1,
    people_val=1,
    takes_train=1,
    takes_val=1,
    draw_size=48,
    draw_fps=8.0,
    draw_seconds=0.5,
)

# Renew it, after raising STUDIO_VERSION, with: python tests/test_studio.py
FROZEN = "0caa0dbc93129475d091883b419ea2e3"


JOBS = studio._plan(settings.profile("standard"), seed=0)


def sketch(job: studio._Job, fps: float) -> np.ndarray:
    """A clip, small and without tremor."""
    who = job.action, job.person, job.scene, job.take
    return studio.draw_clip(*who, size=32, fps=fps, shake=0.0)


@functools.cache
def sketches() -> dict[str, np.ndarray]:
    """Every clip of the standard profile, of few frames."""
    return {job.path: sketch(job, 2.0) for job in JOBS}


def frames_hash() -> str:
    """Hash over two clips of every action, and over the sketches of all."""
    digest = hashlib.blake2b(digest_size=16)
    for number, action in enumerate(studio.ACTIONS):
        for take in (0, 1):
            digest.update(studio.draw_clip(action, number, number + 3 * take, take, seconds=0.5))
    for frames in sketches().values():
        digest.update(frames)
    return digest.hexdigest()


def test_frames_are_frozen():
    assert frames_hash() == FROZEN, (
        "the studio draws other frames than when it was frozen: every results table rests on them. "
        "If studio.py did not change, another OpenCV or NumPy version may round differently "
        "(frozen with OpenCV 5.0 and NumPy 2.4 on x86-64); else raise STUDIO_VERSION, renew FROZEN "
        "(python tests/test_studio.py) and run the results again"
    )


def test_a_person_who_leaves_the_picture_leaves_an_empty_room():
    frames = studio.draw_clip("walking", 500, 500, 0, size=48, fps=4.0, seconds=8.0, seed=7)
    changes = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert changes[-1] < 0.3 * changes.max()  # tremor alone, against a person who walks


@pytest.mark.parametrize("action", studio.ACTIONS)
def test_a_clip_is_drawn_and_moves(action):
    frames = studio.draw_clip(action, 1, 2, 0, seconds=1.0)
    assert frames.shape == (16, 96, 96, 3) and frames.dtype == np.uint8
    assert frames.std() > 15  # not blank
    moved = np.abs(np.diff(frames.astype(int), axis=0)).max((1, 2, 3))
    assert moved.max() > 30


def test_same_numbers_same_bytes_in_another_process():
    call = "studio.draw_clip('walking', 3, 4, 1, size=64, seconds=0.5)"
    code = f"import sys; from vidlib import studio; sys.stdout.buffer.write({call}.tobytes())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    mine = studio.draw_clip("walking", 3, 4, 1, size=64, seconds=0.5)
    assert mine.tobytes() == other
    assert (mine == studio.draw_clip("walking", 3, 4, 1, size=64, seconds=0.5)).all()


def test_every_number_matters():
    def draw(*numbers, seed=0):
        return studio.draw_clip("waving", *numbers, size=48, seconds=0.25, seed=seed)

    base = draw(0, 0, 0)
    for other in (draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1), draw(0, 0, 0, seed=1)):
        assert (base != other).any()


def test_somebody_moves_in_every_clip_of_the_standard_profile():
    """Without tremor nothing else moves: no wall is in the way, nobody is out of the picture."""
    for job in JOBS:
        frames = sketches()[job.path]
        if np.ptp(frames, axis=0).max() <= 25:
            # an arm that waves at nearly the sketch's rate is at one place in all its frames
            frames = sketch(job, 5.0)
        assert np.ptp(frames, axis=0).max() > 25, job.path


def test_unknown_action_is_refused():
    with pytest.raises(settings.UserError, match="choose one of waving"):
        studio.draw_clip("flying", 0, 0, 0)


@pytest.mark.parametrize("person", range(4))
def test_standing_up_is_sitting_down_reversed(person):
    who, times = studio.person_of(person), np.arange(32) / 16
    down = studio.pose("sitting_down", who, studio._rng(9, person), times)
    up = studio.pose("standing_up", who, studio._rng(9, person), times)
    for a, b in ((down.joints, up.joints), (down.directions, up.directions)):
        assert a.keys() == b.keys()
        for name in a:
            assert np.allclose(a[name], b[name][::-1], atol=1e-12), name
    assert np.allclose(down.root, up.root[::-1]) and np.allclose(down.heading, up.heading[::-1])
    head = down.joints["head"][:, 1]
    assert head[0] - head[-1] > 0.15  # of the height: really down


def test_pair_has_no_clue_but_order(monkeypatch):
    """The same draws for both actions give the same frames, in the opposite order."""
    monkeypatch.setattr(studio, "ACTIONS", ("standing_up",))
    up = studio.draw_clip("standing_up", 2, 3, 0, size=64)
    monkeypatch.setattr(studio, "ACTIONS", ("sitting_down",))
    down = studio.draw_clip("sitting_down", 2, 3, 0, size=64)
    assert (up == down[::-1]).all()
    assert (up != down).any()


@pytest.mark.parametrize("action", studio.ACTIONS)
def test_bodies_hold_together(action):
    """Limbs keep their length, nothing sinks into the floor, knees bend forwards."""
    for person in range(6):
        who = studio.person_of(person)
        motion = studio.pose(action, who, studio._rng(5, person), np.arange(32) / 16)
        j, d = motion.joints, motion.directions
        for k in "LR":
            for a, b, length in (
                ("hip", "knee", studio.THIGH),
                ("knee", "ankle", studio.SHIN),
                ("shoulder", "elbow", studio.UPPER),
                ("elbow", "wrist", studio.FORE),
            ):
                assert np.allclose(np.linalg.norm(j[a + k] - j[b + k], axis=1), length, atol=1e-6)
            for name in ("heel", "toe", "knee", "wrist"):
                assert j[name + k][:, 1].min() > 0.005, name
            middle = (j["hip" + k] + j["ankle" + k]) / 2
            assert ((j["knee" + k] - middle) * d["hips_ahead"]).sum(1).min() > -1e-3


def test_clapping_hands_meet():
    for person in range(6):
        who = studio.person_of(person)
        j = studio.pose("clapping", who, studio._rng(6, person), np.arange(64) / 32).joints
        gap = np.linalg.norm(j["wristL"] - j["wristR"], axis=1)
        assert gap.min() < 0.06 and gap.max() > 0.2


def test_feet_do_not_slide():
    """While a walker's foot is flat on the floor, it stays where it is."""
    who, times = studio.person_of(0), np.arange(200) / 200
    for draw in range(4):
        motion = studio.pose("walking", who, studio._rng(7, draw), times)
        world = studio._World(who, motion, np.zeros(3))
        foot = world.joints["heelL"]
        still = np.abs(foot[:-1, 1] - foot[:, 1].min()) < 1e-3
        speed = np.linalg.norm(np.diff(foot[:, [0, 2]], axis=0), axis=1) * 200  # m/s
        assert still.sum() > 20 and np.median(speed[still]) < 0.12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    return studio.make_dataset(root, TINY, workers=1, progress=False)


def test_dataset_is_complete(drawn):
    rows = list(csv.DictReader(drawn.open(encoding="utf-8", newline="")))
    assert list(rows[0]) == ["path", "action", "person", "scene", "split", "source"]
    assert len(rows) == 2 * len(studio.ACTIONS)
    for row in rows:
        path = drawn.parent / row["path"]
        assert path.parts[-3:-1] == (row["split"], row["action"]) and row["source"] == "studio"
        assert path.name.startswith(f"studio_{row['person']}_{row['scene']}_")
    path = drawn.parent / rows[0]["path"]
    frames, _ = video.read_frames(path)
    assert frames.shape == (4, 48, 48, 3)
    assert {p.suffix for p in drawn.parent.rglob("*") if p.is_file()} == {".webm", ".csv", ".json"}


@pytest.mark.parametrize("profile", settings.PROFILES)
def test_val_has_other_people_and_scenes(profile):
    jobs = studio._plan(settings.profile(profile), seed=0)
    for what in ("person", "scene"):
        train, val = ({getattr(j, what) for j in jobs if j.split == s} for s in ("train", "val"))
        assert train and val and not train & val
    assert len({j.path for j in jobs}) == len(jobs)
    if profile == "standard":
        assert sum(j.split == "train" and j.action == "waving" for j in jobs) >= 40
    pair = [{j.scene for j in jobs if j.action == a} for a in studio.PAIR]
    assert pair[0] and pair[1]


def test_nothing_is_drawn_twice(drawn):
    before = {p: p.stat().st_mtime_ns for p in drawn.parent.rglob("*") if p.is_file()}
    studio.make_dataset(drawn.parent, TINY, workers=1, progress=False)
    assert before == {p: p.stat().st_mtime_ns for p in drawn.parent.rglob("*") if p.is_file()}


def test_interrupted_run_goes_on(drawn):
    clips = sorted(drawn.parent.rglob("*.webm"))
    frames, _ = video.read_frames(clips[0])
    kept = clips[1].stat().st_mtime_ns
    clips[0].unlink()
    drawn.unlink()
    assert studio.make_dataset(drawn.parent, TINY, workers=1, progress=False) == drawn
    # the container carries a random number, the frames do not
    assert (video.read_frames(clips[0])[0] == frames).all()
    assert clips[1].stat().st_mtime_ns == kept
    assert drawn.exists()


def test_other_settings_redraw_and_spare_own_files(tmp_path):
    few = replace(TINY, people_val=0)
    table = studio.make_dataset(tmp_path, few, workers=1, progress=False)
    old = set(tmp_path.rglob("studio_*.webm"))
    own = [tmp_path / "train" / "waving" / name for name in ("me.webm", "studio_me.webm")]
    for path in own:
        path.write_bytes(b"mine")
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["train/waving/me.webm", "waving", "me", "", "train", "own"])
    studio.make_dataset(tmp_path, few, seed=1, workers=1, progress=False)
    new = set(tmp_path.rglob("studio_*.webm")) - set(own)
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert {tmp_path / r["path"] for r in rows if r["source"] == "studio"} == new
    assert len(new) == len(old) and new != old
    assert [r["path"] for r in rows if r["source"] == "own"] == ["train/waving/me.webm"]
    assert all(path.read_bytes() == b"mine" for path in own)


def test_foreign_file_in_the_way_is_refused(tmp_path):
    path = tmp_path / studio._plan(TINY, 0)[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(settings.UserError, match="rename it"):
        studio.make_dataset(tmp_path, TINY, workers=1, progress=False)
    assert path.read_bytes() == b"mine"


def test_processes_draw_the_same(drawn, tmp_path):
    other = studio.make_dataset(tmp_path, TINY, workers=2, progress=False)
    assert other.read_text() == drawn.read_text()
    for row in csv.DictReader(other.open(encoding="utf-8", newline="")):
        a, b = (video.read_frames(t.parent / row["path"])[0] for t in (drawn, other))
        assert (a == b).all()


if __name__ == "__main__":
    print(f'FROZEN = "{frames_hash()}"')
