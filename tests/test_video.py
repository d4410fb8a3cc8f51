"""Reading and writing video files: what comes out, when it was shown, and how bad files fail."""

import itertools
import os
import subprocess
import sys
import tracemalloc
import warnings
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidlib import video
from vidlib.video import VideoError


def read_quietly(path: Path, **options) -> tuple[np.ndarray, np.ndarray]:
    """Read with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return video.read_frames(path, **options)


def is_red(pixel: np.ndarray) -> bool:
    return bool(pixel[0] > 150 and pixel[2] < 100)


# -- colours, shapes, times --


def test_a_red_square_on_blue_stays_red(small_video, square):
    frames, times = read_quietly(small_video)
    assert frames.dtype == np.uint8 and frames.shape == (25, 48, 64, 3)
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, np.arange(25) / 25, atol=1e-3)
    assert is_red(frames[0, 30, 5])
    assert frames[0, 5, 40, 2] > 150 and frames[0, 5, 40, 0] < 60
    # the square is where it was drawn, in every frame
    assert np.abs(frames.astype(int) - square()).mean() < 8


def test_reading_is_in_order_and_repeatable(small_video):
    first, again = read_quietly(small_video)[0], read_quietly(small_video)[0]
    assert np.array_equal(first, again)
    streamed = [frame for _, frame in video.iter_frames(small_video)]
    assert np.array_equal(first, np.stack(streamed))
    left = [int(np.argmax(f[30, :, 0] > 120)) for f in first]
    assert left == sorted(left) and left[-1] > left[0]


def test_info_tells_the_header(small_video):
    about = video.info(small_video)
    assert (about.width, about.height, about.codec, about.rotation) == (64, 48, "VP8", 0)
    assert about.fps == pytest.approx(25) and about.claimed_frames == 25
    assert about.path == small_video


@pytest.mark.parametrize("suffix, code", [(".avi", "MJPG"), (".mp4", "mp4v"), (".MKV", "mp4v")])
def test_other_containers(tmp_path, square, suffix, code):
    path = tmp_path / f"clip{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 30, (64, 48))
    for frame in square(fps=30):
        writer.write(frame[..., ::-1])
    writer.release()
    frames, times = read_quietly(path)
    assert frames.shape == (30, 48, 64, 3) and is_red(frames[0, 30, 5])
    np.testing.assert_allclose(times, np.arange(30) / 30, atol=2e-3)


def test_a_window_of_frames(small_video):
    every, _ = read_quietly(small_video)
    frames, times = read_quietly(small_video, start=0.4, end=0.6)
    np.testing.assert_allclose(times, [0.4, 0.44, 0.48, 0.52, 0.56], atol=1e-3)
    assert np.array_equal(frames, every[10:15])
    assert len(read_quietly(small_video, max_frames=3)[0]) == 3
    frames, times = read_quietly(small_video, start=0.5, end=0.9, fps=10)
    np.testing.assert_allclose(times, [0.5, 0.6, 0.7, 0.8])
    assert np.array_equal(frames, every[[12, 15, 17, 20]])


def test_an_empty_window_names_the_file(small_video):
    with pytest.raises(VideoError, match=r"small\.webm: no frame from 5 s"):
        video.read_frames(small_video, start=5)
    with pytest.raises(VideoError, match="no frame from 0.5 s to 0.2 s"):
        video.read_frames(small_video, start=0.5, end=0.2)


def test_names_that_mislead(tmp_path, small_video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.webm", "clip_01.webm", "100%d.webm", "übung – 動画.webm", "-y.webm"):
        Path(name).write_bytes(small_video.read_bytes())
        assert len(read_quietly(Path(name))[0]) == 25, name


# -- sampling by seconds --


def test_25_and_30_frames_per_second_agree(tmp_path, square):
    lefts = []
    for fps in (25, 30):
        path = tmp_path / f"{fps}.webm"
        video.write_video(path, square(seconds=2, fps=fps, width=128), fps)
        frames, times = read_quietly(path, fps=12)
        np.testing.assert_allclose(times, np.arange(24) / 12)
        lefts.append([int(np.argmax(f[30, :, 0] > 120)) for f in frames])
    # one frame of the slower file moves the square by 2.3 pixels
    assert np.abs(np.subtract(*lefts)).max() <= 4


def stamped(times: list[float]) -> list[tuple[float, np.ndarray]]:
    """A stream whose frames hold their own index."""
    return [(t, np.array(i)) for i, t in enumerate(times)]


rates = st.floats(5, 120)


@settings(deadline=None)
@given(rates, rates, st.floats(1, 30), st.floats(0.5, 4))
def test_any_two_rates_agree_within_a_frame(rate_a, rate_b, grid, seconds):
    shown = []
    for rate in (rate_a, rate_b):
        # containers round to milliseconds
        times = [round(i / rate, 3) for i in range(max(2, round(seconds * rate)))]
        stream = list(video._on_grid(stamped(times), grid, 0.0, partial(float, 1 / rate)))
        for k, (g, index) in enumerate(stream):
            assert g == pytest.approx(k / grid)
            assert times[int(index)] <= g + video.TICK  # never a frame from the future
            assert g - times[int(index)] <= 1 / rate + 2 * video.TICK
        shown.append([times[int(index)] for _, index in stream])
    common = min(map(len, shown))
    # the lengths differ by what rounding the length to whole frames leaves over
    assert abs(len(shown[0]) - len(shown[1])) <= grid * (1 / rate_a + 1 / rate_b) + 1
    gaps = np.abs(np.subtract(shown[0][:common], shown[1][:common]))
    assert gaps.max(initial=0) <= max(1 / rate_a, 1 / rate_b) + 2 * video.TICK


@settings(deadline=None)
@given(st.lists(st.floats(0.002, 0.5), min_size=1, max_size=30), st.floats(1, 60), st.floats(0, 3))
def test_a_grid_point_takes_the_frame_shown_then(gaps, grid, start):
    times = [0.0, *itertools.accumulate(gaps)]
    for g, index in video._on_grid(stamped(times), grid, start, lambda: 0.04):
        i = int(index)
        later = times[i + 1] if i + 1 < len(times) else np.inf
        assert times[i] <= g + video.TICK < later + 1e-9


@settings(deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(0.002, 0.5), min_size=1, max_size=30),  # uneven
        st.tuples(st.floats(0.01, 0.1), st.integers(1, 60)).map(lambda v: [v[0]] * v[1]),  # even
    ),
    st.floats(1, 60), st.floats(0, 3),
)  # fmt: skip
def test_frames_left_out_as_not_shown_change_nothing(gaps, grid, start):
    times, made = [0.0, *itertools.accumulate(gaps)], []
    rate = 1 / gaps[0]

    def decoded(path, rgb=True, due=None):
        """Frames with their index as their one pixel, when they are due."""
        made.append(0)
        for i, t in enumerate(times):
            wanted = due(i, t, rate)
            made[-1] += wanted
            yield t, np.full((1, 1, 3), i, np.uint8) if wanted else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "_decoded", decoded)
        patch.setattr(video, "info", lambda path: video.VideoInfo(path, 1, 1, 25, None, "", 0))
        told = [(t, int(f[0, 0, 0])) for t, f in video._stream(Path("x"), start, grid, None)]
    whole = [(t, int(i)) for t, i in video._on_grid(stamped(times), grid, start, lambda: 0.04)]
    assert told == whole
    if len({*gaps}) == 1:  # never twice through the file, and no frame in vain but where it is near
        assert len(made) == 1
        close = sum(t + video.TICK - times[i] < 0.91 * video.TICK for t, i in whole)
        assert made[0] <= len({i for _, i in whole}) + close + 2


@pytest.mark.parametrize("rate", [15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60])
@pytest.mark.parametrize("grid", [6.0, 8.0, 12.0, 15.0])
@pytest.mark.parametrize("digits", [3, 9])  # WebM and Matroska round times to a millisecond
def test_usual_rates_are_read_once_and_little_is_made_in_vain(rate, grid, digits):
    times = [round(i / rate, digits) for i in range(round(20 * rate))]
    due = video._guess(0.0, grid)
    made = [i if due(i, t, rate) else None for i, t in enumerate(times)]
    got = list(video._on_grid(zip(times, made, strict=True), grid, 0.0, lambda: 1 / rate))
    assert None not in [i for _, i in got]
    vain = sum(i is not None for i in made) / len({i for _, i in got}) - 1
    assert vain < 0.1  # NTSC rates drift past the grid


@pytest.mark.parametrize("sides", [(48, 64), (320, 420)])  # under and over video.SMALL
@pytest.mark.parametrize("size", [32, None])
def test_threads_change_no_pixel(sides, size, tmp_path):
    """One thread is what each of several processes that decode has."""
    rng, path = np.random.default_rng(0), tmp_path / "film.webm"
    wall = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), sides[::-1])
    video.write_video(path, (np.roll(wall, 3 * k, 1) for k in range(40)), 25)
    assert (sides[0] * sides[1] > video.SMALL) == (sides == (320, 420))
    threads, read = cv2.getNumThreads(), []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            read.append(video.read_frames(path, fps=12, size=size))
    finally:
        cv2.setNumThreads(threads)
    (alone, times), (many, same) = read
    assert len(alone) == 20 and (alone == many).all() and (times == same).all()


@given(
    st.lists(st.one_of(st.floats(), st.floats(0, 5)), min_size=1, max_size=20), st.floats(0.1, 240)
)
def test_times_increase_whatever_the_container_says(stamps, fps):
    seconds = 0.0
    for stamp in stamps:
        after = video._next_time(seconds, stamp, fps)
        assert seconds < after <= seconds + max(video.LONGEST_GAP, 10 / fps) + 1e-9
        seconds = after


def test_good_stamps_are_kept_and_nonsense_is_replaced():
    times = [0.0]
    for stamp in (0.1, 0.25, 0.25, -7.0, float("nan"), 1e12, 0.9):
        times.append(video._next_time(times[-1], stamp, 10))
    np.testing.assert_allclose(times, [0, 0.1, 0.25, 0.35, 0.45, 0.55, 0.65, 0.9])


def test_segments_are_the_whole_film_in_order(small_video):
    whole, times = read_quietly(small_video, fps=12, size=32)
    pieces = list(video.iter_segments(small_video, seconds=0.4, fps=12, size=32))
    assert [len(frames) for frames, _ in pieces] == [5, 5, 2]
    assert np.array_equal(np.concatenate([frames for frames, _ in pieces]), whole)
    np.testing.assert_allclose(np.concatenate([t for _, t in pieces]), times)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_letterbox_keeps_the_aspect(height, width, size):
    boxed = video.letterbox(np.full((height, width, 3), 200, np.uint8), size)
    assert boxed.shape == (size, size, 3) and boxed.dtype == np.uint8
    assert boxed.flags.c_contiguous
    rows, columns = np.any(boxed, axis=(1, 2)).sum(), np.any(boxed, axis=(0, 2)).sum()
    assert max(rows, columns) == size
    assert abs(rows - size * min(1, height / width)) <= 1
    assert abs(columns - size * min(1, width / height)) <= 1
    assert set(np.unique(boxed)) <= {0, 200}


# -- memory --


def test_a_long_film_is_never_held(tmp_path, monkeypatch):
    frame = np.zeros((360, 640, 3), np.uint8)  # 0.7 MB; the film is 160 MB
    path = tmp_path / "long.webm"
    video.write_video(path, itertools.repeat(frame, 240), 30)
    tracemalloc.start()
    try:
        frames, _ = read_quietly(path, start=2, end=8, fps=5, size=64)
        _, read_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        count = sum(len(f) for f, _ in video.iter_segments(path, 2, 12, 64))
        _, segment_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frames) == 30 and count == 96
    assert max(read_peak, segment_peak) < 12e6
    monkeypatch.setattr(video, "MAX_BYTES", 20_000_000)
    with pytest.raises(VideoError, match=r"long\.webm: more than .* GiB .*read a window"):
        video.read_frames(path)
    assert len(read_quietly(path, fps=2)[0]) == 16


# -- writing --


@pytest.mark.parametrize("fps", [1, 10])  # at 1, sides of 8 pixels were written and not readable
@pytest.mark.parametrize("height, width", [(48, 64), (95, 97), (33, 64), (17, 16), (1, 1), (2, 9)])
def test_odd_sizes_lose_nothing(tmp_path, height, width, fps):
    frames = np.full((5, height, width, 3), (20, 120, 220), np.uint8)
    path = tmp_path / "odd.webm"
    video.write_video(path, frames, fps)
    back, _ = read_quietly(path)
    padded = [max(16, n + n % 2) for n in (height, width)]
    assert back.shape == (5, *padded, 3)
    # the added row and column repeat the edge: a black one would be far away
    assert np.abs(back.astype(int) - (20, 120, 220)).max() < 30


@pytest.mark.parametrize("fps", [1, 12.5, 16, 23.976, 30, 60])
def test_rates_are_kept(tmp_path, square, fps):
    path = tmp_path / "rate.webm"
    video.write_video(path, square(seconds=1, fps=10), fps)
    np.testing.assert_allclose(read_quietly(path)[1], np.arange(10) / fps, atol=1e-3)


def test_the_same_frames_are_the_same_file(tmp_path, square):
    # ffmpeg names a track at random: keys made of a drawn set would hold on one machine only
    for name in ("a.webm", "b.webm"):
        video.write_video(tmp_path / name, square(seconds=1, fps=10), 10)
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()
    assert len(read_quietly(tmp_path / "a.webm")[0]) == 10


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path, square):
    good = square()
    for name, frames, fps, match in [
        ("a.mp4", good, 25, "only .webm"),
        ("a.webm", good[:0], 25, "no frames"),
        ("a.webm", good.astype(float), 25, "uint8"),
        ("a.webm", good[0], 25, "uint8"),
        ("a.webm", [good[0], good[1, 1:]], 25, "one size"),
        ("a.webm", good, 0, "frames per second"),
        ("a.webm", good, 0.5, "frames per second"),
        ("a.webm", good, float("nan"), "frames per second"),
    ]:
        with pytest.raises(VideoError, match=match) as caught:
            video.write_video(tmp_path / name, frames, fps)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot be written"):
        video.write_video(tmp_path / "file" / "a.webm", good, 25)


def test_a_failed_write_keeps_the_old_file(tmp_path, small_video):
    path = tmp_path / "a.webm"
    path.write_bytes(small_video.read_bytes())

    def frames():
        yield np.zeros((48, 64, 3), np.uint8)
        raise RuntimeError("the drawing broke")

    with pytest.raises(RuntimeError):
        video.write_video(path, frames(), 25)
    assert path.read_bytes() == small_video.read_bytes()
    assert os.listdir(tmp_path) == ["a.webm"]


def test_nothing_is_printed(tmp_path, small_video):
    """OpenCV's and FFmpeg's chatter would end up in every stored notebook."""
    code = """
import sys
from pathlib import Path
from vidlib import video
small, folder = map(Path, sys.argv[1:])
frames, _ = video.read_frames(small)
video.write_video(folder / "w.webm", frames, 25)
(folder / "cut.webm").write_bytes(small.read_bytes()[:1500])
(folder / "text.mp4").write_text("not a video")
for name in ("cut.webm", "text.mp4"):
    try:
        video.read_frames(folder / name)
    except video.VideoError:
        pass
print("heard", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, small_video, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(video.__file__).parents[1],
    )
    assert (done.stdout, done.stderr) == ("", "heard\n")


def test_transcode(tmp_path, square):
    src, dst = tmp_path / "src.avi", tmp_path / "new" / "dst.webm"
    writer = cv2.VideoWriter(str(src), cv2.VideoWriter.fourcc(*"MJPG"), 60, (640, 360))
    for frame in square(fps=60, height=360, width=640):
        writer.write(frame[..., ::-1])
    writer.release()
    seen: list[float] = []
    video.transcode(src, dst, max_side=160, progress=seen.append)
    frames, times = read_quietly(dst)
    assert frames.shape == (30, 90, 160, 3)
    assert is_red(frames[0, 60, 8])
    np.testing.assert_allclose(times, np.arange(30) / 30, atol=2e-3)
    assert seen == sorted(seen) and len(seen) == 30
    assert os.listdir(dst.parent) == ["dst.webm"]


# -- files that are not as they should be --


def test_bad_paths_and_files(tmp_path, small_video):
    (tmp_path / "empty.webm").touch()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "header.webm").write_bytes(small_video.read_bytes()[:300])
    for name, match in [
        ("empty.webm", r"empty \(0 bytes\)"),
        ("text.mp4", "no video that can be read"),
        ("folder.mp4", "is a folder"),
        ("gone.mp4", "no such file"),
        ("loop.mp4", "no such file|cannot be opened"),
        ("header.webm", "no video that can be read|decodes no frame"),
        ("missing.mp4", "no such file"),
        ("long" * 100 + ".mp4", "cannot be opened"),
    ]:
        for reader in (video.info, video.read_frames, lambda p: list(video.iter_frames(p))):
            if name == "header.webm" and reader is video.info:
                continue  # the header may be all there
            with pytest.raises(VideoError, match=match) as caught:
                reader(tmp_path / name)
            assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="no such file"):
        video.read_frames(tmp_path / "pipe.mp4")


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_damaged_files_give_frames_or_a_clear_error(small_video, tmp_path_factory, data):
    content = bytearray(small_video.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    assume(bytes(content) != small_video.read_bytes())
    path = tmp_path_factory.mktemp("damaged") / "damaged.webm"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames, times = video.read_frames(path, size=16)
        except VideoError as error:
            assert "damaged.webm" in str(error) and "\n" not in str(error)
        else:
            assert len(frames) == len(times) <= 60
            assert times[0] == 0 and np.all(np.diff(times) > 0)


# -- real files that break readers --


@pytest.mark.parametrize(
    "name, shape, last",
    [
        ("alpha.webm", (150, 200, 200, 3), 4.967),
        ("h264_10bit.mp4", (30, 200, 200, 3), 0.967),
        ("one_pixel_1fps.mp4", (5, 1, 1, 3), 4.0),
        ("rotated_90.mov", (3, 568, 320, 3), 0.067),
        ("no_duration_variable_rate.webm", (74, 720, 1280, 3), 4.872),
    ],
)
def test_odd_files_are_read_whole_and_without_a_warning(odd_videos, name, shape, last):
    count, height, width, _ = shape
    frames, times = read_quietly(odd_videos / name, size=64)
    assert frames.shape == (count, 64, 64, 3)
    assert times[0] == 0 and np.all(np.diff(times) > 0)
    assert times[-1] == pytest.approx(last, abs=1e-3)
    first, _ = read_quietly(odd_videos / name, max_frames=1)
    assert first.shape == (1, height, width, 3)
    about = video.info(odd_videos / name)
    assert (about.height, about.width) == (height, width)


def test_times_of_a_variable_rate_are_the_containers(odd_videos):
    path = odd_videos / "no_duration_variable_rate.webm"
    assert video.info(path).claimed_frames is None
    _, times = read_quietly(path, size=8)
    # read from the file with ffprobe; index / fps would be 65 ms apart everywhere
    np.testing.assert_allclose(times[:6], [0, 0.067, 0.134, 0.196, 0.267, 0.333])
    assert np.diff(times).min() < 0.063 and np.diff(times).max() > 0.071


def test_a_truncated_file_gives_its_frames_and_a_warning(odd_videos):
    with pytest.warns(UserWarning, match=r"truncated\.mp4: .* 50 frames but 28 decode"):
        frames, times = video.read_frames(odd_videos / "truncated.mp4", size=64)
    assert len(frames) == 28 and times[-1] == pytest.approx(2.7)
    # whoever asks for its beginning alone gets it and no warning
    assert len(read_quietly(odd_videos / "truncated.mp4", end=1.0, size=8)[0]) == 10


def test_rotation_is_told_and_applied(odd_videos):
    about = video.info(odd_videos / "rotated_90.mov")
    assert about.rotation == 90 and about.height > about.width


@pytest.mark.parametrize(
    "name, match",
    [
        ("av1.mkv", "AV1"),
        ("zero_bytes.webm", "empty"),
        ("audio_only.mp3", "sound only"),
        ("README.md", "not a video"),
    ],
)
def test_odd_files_that_cannot_be_read(odd_videos, name, match, tmp_path):
    for reader in (
        video.read_frames,
        lambda path: list(video.iter_segments(path, 1, 12, 64)),
        lambda path: video.transcode(path, tmp_path / "out.webm"),
    ):
        with pytest.raises(VideoError, match=match) as caught:
            reader(odd_videos / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_real_clips(weizmann):
    frames, times = read_quietly(weizmann / "bend" / "daria_bend.avi")
    assert frames.shape == (84, 144, 180, 3)
    np.testing.assert_allclose(times, np.arange(84) / 25, atol=1e-6)


@pytest.mark.parametrize("rate", [1e-6, 0.0, float("nan"), float("inf"), -25.0, 1e9])
def test_a_rate_that_no_film_has_is_not_believed(small_video, monkeypatch, rate):
    """By a header's frame in a million seconds 25 frames would be shown for most of a year."""
    open_ = video._open

    class Wrong:
        def __init__(self, path, **how):
            self.capture = open_(path, **how)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, what):
            return rate if what == cv2.CAP_PROP_FPS else self.capture.get(what)

    monkeypatch.setattr(video, "_open", Wrong)
    assert video.info(small_video).fps == 25
    assert len(video.read_frames(small_video, fps=12)[0]) == 12


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("Failed to allocate 123 bytes")])
def test_a_frame_that_does_not_fit_into_memory_is_named(small_video, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(cv2, "cvtColor", refuse)
    with pytest.raises(VideoError, match=r"small\.webm: a frame of 64 x 48 pixels"):
        video.read_frames(small_video)
