"""The prediction panel, driven headless through its controls, with a predictor that is quick."""

import html
import itertools
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import held, rounds
from vidlib import figures, video, widget
from vidlib.catalog import Clip
from vidlib.settings import UserError
from vidlib.widget import PredictionPanel

ACTIONS = ["boxing", "running <fast>", "waving"]


class FakePrediction:
    """What `predict.Prediction` offers, for 12 frames of a second."""

    answer = "waving"

    def __init__(self, path: Path) -> None:
        self.path, self.actions = str(path), ACTIONS
        self.probabilities = np.array([0.1, 0.2, 0.7])
        self.window_times = np.array([[0.0, 0.7], [0.3, 1.0]])
        self.window_probabilities = np.array([[0.1, 0.3, 0.6], [0.1, 0.1, 0.8]])
        self.frame_times = np.arange(12) / 12
        self.frame_weights = np.arange(12) / 66
        self.seconds = 0.123

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        order = np.argsort(-self.probabilities)[:k]
        return [(ACTIONS[i], float(self.probabilities[i])) for i in order]


class FakePredictor:
    weights_note = "weights of a test"

    def __init__(self) -> None:
        self.seen: list[Path] = []
        self.reading = threading.Event()  # cleared, it holds a prediction under way
        self.reading.set()
        self.broken: BaseException | None = None

    def predict(
        self, path: Path, progress: Callable[[float], None] = lambda seconds: None
    ) -> FakePrediction:
        for seconds, _ in video.iter_frames(path):
            progress(seconds)
            self.reading.wait(10)
        self.seen.append(Path(path))
        if self.broken:
            raise self.broken
        return FakePrediction(path)


@pytest.fixture
def panel(small_video: Path, monkeypatch: pytest.MonkeyPatch) -> PredictionPanel:
    monkeypatch.setattr(figures, "DPI", 40)  # coarse pictures are drawn sooner
    clip = Clip(small_video, "waving", "07", "02", "val", "studio")
    return PredictionPanel(FakePredictor(), [clip], k=2)


def status(panel: PredictionPanel) -> str:
    """The status line as a person reads it."""
    return html.unescape(re.sub(r"<[^>]+>", "", panel.status.value))


def played(panel: PredictionPanel) -> tuple[str, bytes]:
    """(MIME type, bytes) of the video in the page."""
    assert panel.film.film
    return panel.film.mime, panel.film.film


def answered(panel: PredictionPanel) -> bool:
    """Whether the page shows an answer, whole; half of one is a fault."""
    parts = [panel.bars.value, panel.film.timeline, panel.film.frames, panel.prediction]
    assert all(parts) or not any(parts)
    return all(parts)


def press(panel: PredictionPanel) -> None:
    """A click on Predict, until the answer is there."""
    panel.button.click()
    panel.wait()


def choose(panel: PredictionPanel, number: int) -> None:
    panel.choose.chosen = number
    panel.wait()


def type_path(panel: PredictionPanel, path: Path | str) -> None:
    panel.path.value = str(path)
    panel.wait()


SLICE = 1000  # bytes; the page's are larger


def give_file(panel: PredictionPanel, name: str, content: bytes, size: int | None = None) -> None:
    """What the page does when a file was chosen: it tells name and size, and sends slices as they
    are asked for."""

    def page(message: dict[str, Any]) -> None:
        at = message["at"]
        told = {"kind": "slice", "at": at}
        threading.Thread(  # the kernel's own thread hears it
            target=panel._on_message, args=(None, told, [content[at : at + SLICE]])
        ).start()

    panel.choose.send = page
    size = len(content) if size is None else size
    panel._on_message(None, {"kind": "upload", "name": name, "size": size}, [])
    panel.wait()


# --- choosing and predicting ---------------------------------------------------------------------


def test_choose_then_predict(panel: PredictionPanel, small_video: Path) -> None:
    assert [c["label"] for c in panel.choose.clips] == ["waving, person 07"]
    assert panel.choose.clips[0]["picture"].startswith("data:image/jpeg;base64,")
    mime, data = played(panel)  # the first clip plays already
    assert (mime, data) == ("video/webm", small_video.read_bytes())
    assert not answered(panel)
    press(panel)
    assert answered(panel)
    assert panel.predictor.seen == [small_video]
    assert status(panel) == "small.webm: waving, 70.0%; weights of a test; 0.12 s"
    assert not panel.button.disabled


def test_the_answer_can_be_read_as_text(panel: PredictionPanel, small_video: Path) -> None:
    panel.predict(small_video)
    rows = re.findall(r"<tr>.*?</tr>", panel.bars.value)
    words = [html.unescape(re.sub(r"<[^>]+>", " ", row)).split() for row in rows]
    assert words == [["waving", "70.0%"], ["running", "<fast>", "20.0%"]]  # k = 2, best first
    assert "width: 70.0%" in rows[0]
    told = panel.film.timeline
    assert told["alt"].endswith("0.0 to 0.7 s waving; 0.3 to 1.0 s waving")
    assert told["names"] == ["waving", "running <fast>", "others"] and told["end"] == 1.0
    np.testing.assert_allclose(told["shares"], [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1]])
    last = panel.film.frames[-1]
    assert (round(last["seconds"], 2), round(last["weight"], 3)) == (0.92, 0.167)


def test_an_unsure_answer_is_told_as_one(
    panel: PredictionPanel, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakePrediction, "answer", "unsure")
    panel.predict(small_video)
    assert "small.webm: unsure; most probable waving, 70.0%" in status(panel)


def test_predict_returns_the_prediction(panel: PredictionPanel, small_video: Path) -> None:
    found = panel.predict(str(small_video))
    assert found is panel.prediction and found.top(1)[0][0] == "waving"


def test_the_list_shows_what_is_predicted(
    panel: PredictionPanel, small_video: Path, tmp_path: Path
) -> None:
    other = shutil.copy(small_video, tmp_path / "other.webm")
    panel.predict(other)
    assert panel.choose.chosen == -1 and panel.source == other
    panel.predict(small_video)
    assert panel.choose.chosen == 0 and answered(panel)  # the mark starts nothing


def test_pictured_frames_are_those_of_the_times(panel: PredictionPanel, small_video: Path) -> None:
    panel.predict(small_video)
    picks = figures.top_frames(panel.prediction.frame_weights)
    assert sorted(panel._pictures) == picks and len(picks) == 6
    frames, _ = video.read_frames(small_video, fps=12)
    for i in picks:
        assert (panel._pictures[i] == frames[i]).all()


def test_typed_path_upload_and_list_take_turns(
    panel: PredictionPanel, small_video: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other clip.webm"
    other.write_bytes(small_video.read_bytes())
    type_path(panel, f'  "{other}" ')  # pasted with quotes, as file managers do
    assert panel.source == other and panel.choose.chosen == -1
    press(panel)
    give_file(panel, "../../mine.webm", small_video.read_bytes())
    assert panel.source == panel._folder / "mine.webm"
    assert panel.path.value == "" and panel.source.read_bytes() == small_video.read_bytes()
    assert not answered(panel)  # the last answer was of another video
    press(panel)
    choose(panel, 0)
    press(panel)
    seen = [p.name for p in panel.predictor.seen]
    assert seen == ["other clip.webm", "mine.webm", "small.webm"]
    assert answered(panel)


def test_the_same_file_can_be_uploaded_twice(panel: PredictionPanel, small_video: Path) -> None:
    for _ in range(2):
        choose(panel, 0)
        give_file(panel, "mine.webm", small_video.read_bytes())
        assert panel.source.name == "mine.webm"


def test_a_file_browsers_may_not_play_is_transcoded(
    panel: PredictionPanel, tmp_path: Path, square: Any
) -> None:
    import cv2

    path = tmp_path / "old.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for frame in square(1.0):
        writer.write(frame[..., ::-1].copy())
    writer.release()
    assert panel.predict(path)
    mime, data = played(panel)
    assert mime == "video/webm"
    copy = tmp_path / "copy.webm"
    copy.write_bytes(data)
    assert len(video.read_frames(copy)[0]) == 25


def test_a_film_too_long_for_the_page_is_predicted_all_the_same(
    panel: PredictionPanel, small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widget, "PLAY_LIMIT", 100)
    path = tmp_path / "long.webm"
    path.write_bytes(small_video.read_bytes())
    assert panel.predict(path)
    assert "too long to play" in panel.film.title and not panel.film.film


# --- mistakes ------------------------------------------------------------------------------------


def works(panel: PredictionPanel, small_video: Path) -> bool:
    """Whether the panel is still usable: list, button, answer."""
    type_path(panel, small_video)
    press(panel)
    return answered(panel) and "waving, 70.0%" in status(panel) and not panel.button.disabled


def refused(panel: PredictionPanel, *words: str) -> None:
    """One line in the status, nothing else, and the controls are ready."""
    line = status(panel)
    assert line.startswith("⚠ Error: ") and "\n" not in line and "Traceback" not in line
    assert [word for word in words if word not in line] == [], line
    assert not answered(panel) and not panel.button.disabled


def test_not_a_video(panel: PredictionPanel, small_video: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.webm").touch()
    (tmp_path / "notes.mp4").write_text("not a video <b>at all</b>")
    (tmp_path / "folder").mkdir()
    for name in ("empty.webm", "notes.mp4", "nowhere.webm", "folder"):
        path = tmp_path / name
        type_path(panel, path)
        refused(panel, name)
        assert not panel.film.film  # not the film before
        press(panel)
        refused(panel, name)
        assert panel.predict(path) is None
        assert works(panel, small_video)


def test_upload_that_is_not_a_video(panel: PredictionPanel, small_video: Path) -> None:
    give_file(panel, "letter.mp4", b"Dear Sir or Madam" * 100)
    refused(panel, "letter.mp4")
    assert str(panel._folder) not in status(panel)  # a temporary folder tells a person nothing
    assert works(panel, small_video)


def test_upload_over_the_limit(panel: PredictionPanel, small_video: Path) -> None:
    before = panel.source
    give_file(panel, "film.mp4", small_video.read_bytes(), size=500_000_001)
    refused(panel, "film.mp4", "500.0 MB", "give its path")
    assert panel.source == before
    assert works(panel, small_video)


def test_an_upload_that_stops_is_told(
    panel: PredictionPanel, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widget, "PATIENCE", 0.2)
    panel.choose.send = lambda message: None  # the page has gone
    panel._on_message(None, {"kind": "upload", "name": "mine.webm", "size": 10}, [])
    panel.wait()
    refused(panel, "mine.webm", "halt")
    asked = threading.Event()
    panel.choose.send = lambda message: asked.set()
    panel._on_message(None, {"kind": "upload", "name": "mine.webm", "size": 10}, [])
    asked.wait(10)
    panel._on_message(None, {"kind": "unreadable", "why": "moved"}, [])
    panel.wait()
    assert "the browser could not read the file (moved)" in status(panel)
    panel._on_message(None, {"kind": "slice", "at": 0}, [b"late"])  # nobody waits for it
    assert works(panel, small_video)


def test_an_upload_that_does_not_fit_on_the_disk_is_told(
    panel: PredictionPanel, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "ab":
            raise OSError(28, "No space left on device", str(path))
        return real(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        give_file(panel, "mine.webm", small_video.read_bytes())
    assert "mine.webm cannot be kept (No space left on device): free some space" in status(panel)
    give_file(panel, "日" * 200 + ".webm", small_video.read_bytes())  # 605 bytes of a name
    assert "press Predict" in status(panel) and works(panel, small_video)


def test_work_can_be_cancelled_and_a_second_click_does_nothing(
    panel: PredictionPanel, small_video: Path
) -> None:
    panel.predictor.reading.clear()
    panel.button.click()
    while panel.cancel.disabled:  # the thread begins
        time.sleep(0.01)
    assert panel.button.disabled
    under_way = panel._thread
    panel.button.click()
    assert panel._thread is under_way and panel._next is None
    panel.cancel.click()
    panel.predictor.reading.set()
    panel.wait()
    assert status(panel) == "cancelled: press Predict to try again" and not answered(panel)
    assert panel.cancel.disabled and not panel.predictor.seen
    assert works(panel, small_video)


def test_a_choice_ends_what_is_under_way(
    panel: PredictionPanel, small_video: Path, tmp_path: Path
) -> None:
    other = shutil.copy(small_video, tmp_path / "other.webm")
    panel.predictor.reading.clear()
    panel.button.click()
    while panel.cancel.disabled:
        time.sleep(0.01)
    panel.path.value = str(tmp_path / "no.webm")
    panel.path.value = str(other)  # the last one counts
    panel.predictor.reading.set()
    panel.wait()
    assert panel.source == other and status(panel) == "other.webm: press Predict"
    assert not panel.predictor.seen and not answered(panel) and not panel.button.disabled
    assert works(panel, small_video)


def test_a_film_the_browser_cannot_play_is_converted(
    panel: PredictionPanel, small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widget, "_browser_type", lambda path: "video/mp4")
    type_path(panel, shutil.copy(small_video, tmp_path / "new.mp4"))
    assert panel.film.mime == "video/mp4"
    panel._on_message(None, {"kind": "unplayable"}, [])
    panel.wait()
    assert panel.film.mime == "video/webm" and panel.film.film
    thread = panel._thread
    panel._on_message(None, {"kind": "unplayable"}, [])  # not again and again
    assert panel._thread is thread


def test_nothing_chosen(small_video: Path) -> None:
    panel = PredictionPanel(FakePredictor(), [])
    press(panel)
    refused(panel, "choose a clip")
    type_path(panel, small_video)
    press(panel)
    assert answered(panel)


def test_no_weights_yet_names_the_command(
    small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidlib import settings

    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    monkeypatch.setattr(settings, "shipped_dir", lambda: tmp_path / "shipped")
    panel = PredictionPanel(clips=[small_video])  # stands without
    assert "Error" not in status(panel)
    assert panel.predict(small_video) is None
    refused(panel, "no weights", "vidlib train")
    assert played(panel)  # the clip plays all the same
    panel.predictor = FakePredictor()  # as when the weights were made meanwhile
    assert works(panel, small_video)


def test_no_clips_yet_names_the_command(
    small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    panel = PredictionPanel(FakePredictor())
    refused(panel, "vidlib studio")
    type_path(panel, small_video)
    press(panel)
    assert answered(panel)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("the weights do not belong together:\n make them again"), ["belong together"]),
        (
            RuntimeError("shape mismatch\n<b>"),
            ["RuntimeError", "shape mismatch <b>"],
        ),
        (KeyboardInterrupt(), ["interrupted", "Predict"]),
    ],
)
def test_errors_are_one_line_and_the_panel_goes_on(
    panel: PredictionPanel, small_video: Path, error: BaseException, words: list[str]
) -> None:
    panel.predict(small_video)
    panel.predictor.broken = error
    press(panel)
    refused(panel, *words)
    assert "<b>" not in panel.status.value  # shown as text, not as markup
    panel.predictor.broken = None
    assert works(panel, small_video)


def test_warnings_about_the_file_are_told(
    panel: PredictionPanel, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(path: Path, progress: object = None) -> FakePrediction:
        warnings.warn(f"{path.name}: the header claims 50 frames but 28 decode", stacklevel=1)
        return FakePrediction(path)

    monkeypatch.setattr(panel.predictor, "predict", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none reaches the notebook's red boxes
        assert panel.predict(small_video)
    assert "waving, 70.0%" in status(panel) and "Note: small.webm: the header" in status(panel)


# --- a still picture, and what a notebook stores --------------------------------------------------


def test_still_picture(panel: PredictionPanel, small_video: Path) -> None:
    with pytest.raises(UserError, match="nothing predicted yet"):
        panel.still()
    panel.predict(small_video)
    fig, alt = panel.still()
    assert len(figures.to_png(fig)) < 150_000
    for fact in ("small.webm", "weights of a test", "waving 70.0%", "0.0 to 1.0 s waving"):
        assert fact in alt
    assert str(small_video.parent) not in alt
    type_path(panel, "nowhere.webm")
    with pytest.raises(UserError):  # no picture of an answer that is not on the page
        panel.still()


def test_the_stored_text_holds_no_path(panel: PredictionPanel) -> None:
    assert repr(panel) == "PredictionPanel()"


def test_files_of_the_panel_are_removed(small_video: Path) -> None:
    code = (
        "from vidlib.widget import PredictionPanel as P; "
        f"p = P(None, [{str(small_video)!r}]); print(p._folder, p._folder.is_dir()); "
        "import sys; print('torch' in sys.modules)"
    )
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert out[1:] == ["True", "False"]  # there; and the panel stood before torch was loaded
    assert not Path(out[0]).exists()


# --- the real predictor --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real Predictor; what its weights say is chance, how it answers is not."""
    import torch

    from vidlib import checkpoints, encoders, predict, temporal

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    encoder = encoders.build()
    sampling = {"size": 64, "fps": 12.0, "background": "median"}
    rest = {"key": "", "config": {}, "history": [], "sampling": sampling}
    checkpoints.save_encoder(folder / "encoder.pth", encoder, rest)
    _, meta = checkpoints.load_encoder(folder / "encoder.pth")
    model = temporal.TemporalTransformer(encoder.dim, len(ACTIONS), 32, 1, window=16)
    rest |= {"classes": ACTIONS, "encoder_id": meta["id"]}
    checkpoints.save_classifier(folder / "classifier.pth", model, rest)
    return predict.Predictor(folder / "encoder.pth", folder / "classifier.pth")


def test_the_real_predictor_fits_the_panel(
    panel: PredictionPanel, untrained: Any, small_video: Path
) -> None:
    panel.predictor = untrained
    found = panel.predict(small_video)
    assert found and answered(panel), status(panel)
    assert found.top(1)[0][0] in status(panel) and "classifier.pth" in status(panel)
    _, alt = panel.still()
    assert f"{found.top(1)[0][0]} {found.top(1)[0][1]:.1%}" in alt


@pytest.mark.soak
def test_many_predictions_in_the_panel_leave_nothing_behind(
    panel: PredictionPanel, untrained: Any, small_video: Path, tmp_path: Path
) -> None:
    """Two films take turns, one of which has to be transcoded to play. Memory may wobble by 50 MB;
    one prediction's decoded frames (230 kB), if they stayed, would make 460 MB in the long run."""
    panel.predictor = untrained
    other = tmp_path / "other.avi"
    writer = cv2.VideoWriter(str(other), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for _, frame in itertools.islice(video.iter_frames(small_video), 12):
        writer.write(frame)
    writer.release()

    def rounds_of(count: int) -> None:
        for number in range(count):
            type_path(panel, (small_video, other)[number % 10 == 0])
            press(panel)
            assert answered(panel) and status(panel).count("Error") == 0, status(panel)

    rounds_of(10)  # what is loaded and set up once
    files, megabytes = held()
    rounds_of(rounds(2000))
    after = held()
    assert after[0] <= files and threading.active_count() < 10
    assert after[1] - megabytes < 50
    assert len(list(panel._folder.iterdir())) <= 1


# --- real files ----------------------------------------------------------------------------------

ODD = {
    "rotated_90.mov": None, "truncated.mp4": None, "no_duration_variable_rate.webm": None,
    "h264_10bit.mp4": None, "alpha.webm": None, "one_pixel_1fps.mp4": None,
    "av1.mkv": "AV1", "zero_bytes.webm": "empty", "audio_only.mp3": "no video",
}  # fmt: skip


def test_odd_files_give_an_answer_or_a_clear_error(
    panel: PredictionPanel, untrained: Any, odd_videos: Path, small_video: Path, tmp_path: Path
) -> None:
    fake, panel.predictor = panel.predictor, untrained
    for name, wrong in ODD.items():
        found = panel.predict(odd_videos / name)
        if wrong:
            assert found is None
            refused(panel, name, wrong)
            continue
        assert found and answered(panel), status(panel)
        mime, data = played(panel)
        if name == "one_pixel_1fps.mp4":
            continue  # the answer is what counts; a film of one pixel is nothing to watch
        film = tmp_path / f"played.{mime.removeprefix('video/')}"
        film.write_bytes(data)
        assert (video.info(film).codec, mime) in {
            ("VP8", "video/webm"), ("VP9", "video/webm"), ("H264", "video/mp4"),
        }  # fmt: skip
        if name == "truncated.mp4":
            assert "50 frames" in status(panel) and "28" in status(panel)
        if name == "h264_10bit.mp4":  # not every browser plays ten bits
            assert mime == "video/webm"
    panel.predictor = fake
    assert works(panel, small_video)


def test_real_clips_of_a_folder(weizmann: Path) -> None:
    clips = sorted(weizmann.glob("*/*.avi"))[::40]
    panel = PredictionPanel(FakePredictor(), clips)
    assert all(c["picture"] for c in panel.choose.clips)
    for i in range(len(clips)):
        choose(panel, i)
        press(panel)
        assert answered(panel) and played(panel)[0] == "video/webm"
