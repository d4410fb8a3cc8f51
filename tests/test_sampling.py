"""Windows, padding masks, content keys and the cache of decoded frames."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vidlib import sampling, settings, video
from vidlib.sampling import FrameCache, file_key, take_window, window_starts
from vidlib.settings import UserError
from vidlib.video import VideoError

REPO = settings.REPO


@pytest.fixture
def clip(tmp_path: Path, small_video: Path) -> Path:
    """A clip of its own for every test."""
    path = tmp_path / "clip.webm"
    path.write_bytes(small_video.read_bytes())
    return path


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "frames", size=32)


def kept(cache: FrameCache) -> list[str]:
    """Every file in the cache's folder, hidden ones too."""
    return sorted(os.listdir(cache.root)) if cache.root.exists() else []


# -- windows --


@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 60))
def test_windows_cover_the_whole(length, window, stride):
    starts = window_starts(length, window, stride)
    assert starts[0] == 0 and starts == sorted(set(starts))
    if length <= window:
        assert starts == [0]
        return
    assert starts[-1] + window == length
    assert set().union(*(range(s, s + window) for s in starts)) == set(range(length))
    assert all(b - a <= stride for a, b in zip(starts, starts[1:], strict=False))


def test_window_starts_by_example():
    assert window_starts(20, 8, 4) == [0, 4, 8, 12]
    assert window_starts(21, 8, 4) == [0, 4, 8, 12, 13]
    assert window_starts(8, 8, 4) == window_starts(0, 8, 4) == [0]
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(8, 4, 0)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12))
def test_a_window_is_padded_with_zeros_and_says_where(length, start, window):
    x = np.arange(1, length * 2 + 1, dtype=np.float32).reshape(length, 2)
    piece, valid = take_window(x, start, window)
    assert piece.shape == (window, 2) and piece.dtype == x.dtype
    assert valid.shape == (window,) and valid.dtype == bool
    assert np.array_equal(piece[valid], x[start : start + window])
    assert not piece[~valid].any()


# -- content keys --


def test_a_key_is_the_content_not_the_name(tmp_path, clip):
    copy = tmp_path / "elsewhere" / "other name.webm"
    copy.parent.mkdir()
    copy.write_bytes(clip.read_bytes())
    os.utime(copy, (0, 0))
    assert file_key(copy) == file_key(clip) == file_key(str(clip))
    copy.write_bytes(clip.read_bytes() + b"!")
    assert file_key(copy) != file_key(clip)
    with pytest.raises(VideoError, match=r"gone\.webm cannot be read"):
        file_key(tmp_path / "gone.webm")


def test_an_unchanged_file_is_hashed_once(clip, monkeypatch):
    first = file_key(clip)
    monkeypatch.setattr(sampling.hashlib, "file_digest", None)
    assert file_key(clip) == first


# -- the cache --


def test_frames_are_a_read_only_map_on_the_grid(cache, clip):
    frames = cache.frames(clip)
    assert isinstance(frames, np.memmap) and not frames.flags.writeable
    assert frames.shape == (12, 32, 32, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, video.read_frames(clip, fps=12, size=32)[0])
    with pytest.raises(ValueError):
        frames[0] = 0
    # plain NumPy reads the file too
    (name,) = kept(cache)
    assert np.array_equal(np.load(cache.root / name, mmap_mode="r"), frames)


def test_red_stays_red_through_the_cache(cache, clip):
    for frames in (cache.frames(clip), cache.frames(clip)):
        red, _, blue = frames[0, 20, 2].astype(int)
        assert red > 150 and blue < 100
        red, _, blue = frames[0, 8, 20].astype(int)
        assert blue > 150 and red < 60
        assert not frames[0, 0].any()  # the bar of the letterbox


def test_decoded_once(cache, clip, monkeypatch):
    first = np.array(cache.frames(clip))
    monkeypatch.setattr(sampling, "read_frames", None)
    assert np.array_equal(cache.frames(clip), first)
    assert np.array_equal(FrameCache(cache.root, size=32).frames(clip), first)
    copy = clip.with_name("copy.webm")
    copy.write_bytes(clip.read_bytes())
    assert np.array_equal(cache.frames(copy), first)


def test_the_default_folder_follows_the_data_folder(own_data_folder, small_video):
    assert FrameCache().root == own_data_folder / "cache" / "frames"


def test_other_parameters_are_other_files(cache, clip):
    cache.frames(clip)
    for other in ({"size": 16}, {"fps": 6}, {"max_seconds": 0.5}):
        changed = FrameCache(cache.root, **{"size": 32} | other)
        assert changed.key(clip) != cache.key(clip)
    assert FrameCache(cache.root, size=32, fps=12).key(clip) == cache.key(clip)
    assert FrameCache(cache.root, size=16, fps=6).frames(clip).shape == (6, 16, 16, 3)


def test_a_changed_source_is_decoded_again(cache, clip, square):
    before = np.array(cache.frames(clip))
    video.write_video(clip, square()[::-1], 25)
    after = cache.frames(clip)
    assert after.shape == before.shape and not np.array_equal(after, before)
    assert np.array_equal(after, video.read_frames(clip, fps=12, size=32)[0])


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-2000],
        lambda content: content[:60],
        lambda content: b"",
        lambda content: b"PK\x03\x04" + content,
        lambda content: content + b"more",
        lambda content: content.replace(b"(12, 32", b"(11, 32"),
        lambda content: content.replace(b"'|u1'", b"'|i1'"),
        lambda content: content.replace(b"False", b"True "),
    ],
)
def test_a_damaged_cache_file_is_made_again(cache, clip, damage, fresh):
    right = np.array(cache.frames(clip))
    (name,) = kept(cache)
    path = cache.root / name
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    again = FrameCache(cache.root, size=32) if fresh else cache
    assert np.array_equal(again.frames(clip), right)
    assert kept(cache) == [name]
    if fresh:
        assert path.read_bytes() == content


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_noticed_by_the_next_process(tmp_path_factory, small_video, data):
    cache = FrameCache(tmp_path_factory.getbasetemp() / "flipped", size=8, fps=4)
    right = np.array(cache.frames(small_video))
    path = cache.root / kept(cache)[0]
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert np.array_equal(FrameCache(cache.root, size=8, fps=4).frames(small_video), right)


def test_a_failed_write_leaves_nothing_behind(cache, clip, monkeypatch):
    def full(file, frames):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sampling.np, "save", full)
    with pytest.raises(UserError, match="No space left.*VIDLIB_DATA") as caught:
        cache.frames(clip)
    assert str(cache.root) in str(caught.value) and "\n" not in str(caught.value)
    assert kept(cache) == []


def test_a_long_film_is_cut_and_that_is_said(tmp_path, clip):
    cache = FrameCache(tmp_path / "frames", size=16, max_seconds=0.5)
    with pytest.warns(UserWarning, match=r"clip\.webm: longer than 0\.5 s"):
        assert len(cache.frames(clip)) == 6
    with pytest.warns(UserWarning, match=r"clip\.webm: longer than 0\.5 s"):
        FrameCache(tmp_path / "b", max_seconds=0.5).build([clip], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FrameCache(tmp_path / "frames", size=16, max_seconds=1.0).frames(clip)


def test_bad_clips_are_named_with_their_reason(tmp_path, cache, clip):
    bad = [tmp_path / name for name in ("empty.webm", "empty copy.webm", "text.mp4", "gone.avi")]
    bad[0].touch()
    bad[1].touch()
    bad[2].write_text("not a video")
    reasons = cache.build([clip, *bad, str(clip)], progress=False)
    assert set(reasons) == set(bad)
    assert "empty" in reasons[bad[0]] and "no video" in reasons[bad[2]]
    assert "No such file" in reasons[bad[3]]
    assert len(kept(cache)) == 1
    with pytest.raises(VideoError, match="empty"):
        cache.frames(bad[0])
    assert cache.build([clip], progress=False) == {}


def test_several_processes_build_what_one_does(tmp_path, square, monkeypatch):
    monkeypatch.setattr(sampling, "FEW", 4)
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}.webm")
        video.write_video(paths[-1], square()[k:], 25)
    (tmp_path / "bad.webm").write_text("not a video")
    one, many = (FrameCache(tmp_path / name, size=16) for name in ("one", "many"))
    assert one.build(paths, workers=1, progress=False) == {}
    reasons = many.build([*paths, tmp_path / "bad.webm"], workers=2, progress=False)
    assert list(reasons) == [tmp_path / "bad.webm"]
    assert kept(one) == kept(many) and len(kept(one)) == 6
    for name in kept(one):
        assert (one.root / name).read_bytes() == (many.root / name).read_bytes()


def test_two_processes_at_once_agree(tmp_path, clip, square):
    """Both write the same files again and again while the other reads them."""
    other = tmp_path / "other.webm"
    video.write_video(other, square()[::-1], 25)
    code = """
import os, sys
import numpy as np
from vidlib.sampling import FrameCache
root, *clips = sys.argv[1:]
for _ in range(15):
    for clip in clips:
        frames = FrameCache(root, size=32).frames(clip)
        assert frames.shape == (12, 32, 32, 3) and frames.any()
        print(hash(frames.tobytes()))
        try:
            os.unlink(frames.filename)
        except OSError:
            pass  # the other was first
"""
    command = [sys.executable, "-c", code, str(tmp_path / "frames"), str(clip), str(other)]
    env = os.environ | {"PYTHONHASHSEED": "0"}
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO, env=env)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    values = {line for out, _ in outputs for line in out.split()}
    assert len(values) == 2  # one per clip, the same in both
    assert not [name for name in os.listdir(tmp_path / "frames") if name.endswith(".part")]


def test_odd_files_through_the_cache(odd_videos, cache):
    paths = [path for path in sorted(odd_videos.iterdir()) if path.suffix != ".md"]
    with pytest.warns(UserWarning, match=r"truncated\.mp4"):
        bad = cache.build(paths, progress=False)
    assert {p.name for p in bad} == {"av1.mkv", "audio_only.mp3", "zero_bytes.webm"}
    lengths = {p.name: len(cache.frames(p)) for p in paths if p not in bad}
    assert lengths["truncated.mp4"] == 34 and lengths["one_pixel_1fps.mp4"] == 60
    assert cache.frames(odd_videos / "one_pixel_1fps.mp4").shape == (60, 32, 32, 3)
    # 4.872 s and the last frame's share, on a grid of 1/12 s
    assert lengths["no_duration_variable_rate.webm"] in (59, 60)
