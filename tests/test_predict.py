"""From a file to an answer, real odd files included."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import held, rounds
from vidlib import checkpoints, encoders, video
from vidlib.predict import Predictor
from vidlib.settings import UserError
from vidlib.temporal import TemporalTransformer

ACTIONS = ["clapping", "walking", "waving"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair of weight files of untrained models: the path matters here, not the answer."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    encoder = encoders.build()
    sample = {"size": 32, "fps": 12.0, "background": "median"}
    meta = {"key": "k", "sampling": sample, "config": {}, "history": []}
    checkpoints.save_encoder(folder / "e.pth", encoder, meta)
    model = TemporalTransformer(encoder.dim, 3, width=16, depth=1, window=12)
    extra = {"classes": ACTIONS, "encoder_id": encoders.identity(encoder)}
    checkpoints.save_classifier(folder / "c.pth", model, meta | extra)
    return folder / "e.pth", folder / "c.pth"


@pytest.fixture(scope="module")
def predictor(weights: tuple[Path, Path]) -> Predictor:
    return Predictor(*weights)


def test_prediction_of_a_file_is_complete(predictor: Predictor, small_video: Path) -> None:
    answer = predictor.predict(small_video)
    assert answer.actions == ACTIONS
    assert answer.probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(answer.window_probabilities.sum(1), 1, atol=1e-6)
    assert answer.frame_weights.sum() == pytest.approx(1) and len(answer.frame_times) == 12
    assert answer.window_times[0, 0] == 0 and answer.window_times[-1, 1] == pytest.approx(1)
    assert [a for a, _ in answer.top(3)] == [ACTIONS[i] for i in np.argsort(-answer.probabilities)]
    told = json.loads(json.dumps(answer.to_json()))
    assert told["action"] == answer.top(1)[0][0] and len(told["timeline"]) == 1


@pytest.mark.parametrize(
    ("p", "answer"), [(0.49, "unsure"), (0.5, "unsure"), (0.51, "waving"), (0.98, "waving")]
)
def test_an_answer_likelier_wrong_than_right_is_unsure(
    predictor: Predictor, small_video: Path, p: float, answer: str
) -> None:
    rest = (1 - p) / 2
    told = [p if a == "waving" else rest for a in ACTIONS]
    given = replace(predictor.predict(small_video), probabilities=np.array(told))
    assert given.answer == given.to_json()["answer"] == answer
    assert given.to_json()["action"] == "waving"


def test_where_nothing_moves_no_action_is_named(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four seconds of a wall, filmed with noise, then four of a square that goes up and down."""
    sample = {"size": 32, "fps": 12.0, "background": "follow"}
    monkeypatch.setattr(predictor, "sampling", sample)
    rng = np.random.default_rng(0)
    wall = np.repeat(rng.integers(60, 200, (16, 16, 3)), 8, axis=0).repeat(8, axis=1)
    film = np.clip(wall + rng.normal(0, 2, (96, 128, 128, 3)), 0, 255).astype(np.uint8)
    quiet = predictor.predict(film[:48], 12.0)
    assert quiet.answer == "unsure"
    np.testing.assert_allclose(quiet.probabilities, 1 / 3)
    for t in range(48, 96):
        film[t, 40 + (t % 12) * 4 :][:24, 50:74] = 255
    p = predictor.predict(film, 12.0).window_probabilities
    assert np.allclose(p[:3], 1 / 3) and (p[-3:].max(1) > 0.34).all()


def test_probabilities_are_divided_by_the_models_temperature(
    weights: tuple[Path, Path], small_video: Path
) -> None:
    predictor = Predictor(*weights)
    sharp = predictor.predict(small_video).probabilities
    predictor.model.temperature.fill_(100.0)
    flat = predictor.predict(small_video).probabilities
    assert flat.argmax() == sharp.argmax() and np.ptp(flat) < 0.1 * np.ptp(sharp)


@pytest.mark.parametrize("fps", [10.0, 12.0, 16.0, 25.0, 30.0])
def test_frames_and_file_give_the_same_answer(
    predictor: Predictor, square: Callable[..., np.ndarray], tmp_path: Path, fps: float
) -> None:
    frames = square(seconds=2.0, fps=fps, height=96, width=96)
    video.write_video(tmp_path / "a.webm", frames, fps)
    read, _ = video.read_frames(tmp_path / "a.webm")
    for of_array, of_file in zip(
        predictor.pictures(read, fps), predictor.pictures(tmp_path / "a.webm"), strict=True
    ):
        np.testing.assert_array_equal(of_array[0], of_file[0])
        np.testing.assert_allclose(of_array[1], of_file[1])
    a, b = predictor.predict(read, fps=fps), predictor.predict(tmp_path / "a.webm")
    np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-3)


def test_a_long_film_is_read_in_segments_and_its_timeline_covers_it(
    predictor: Predictor, square: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    video.write_video(tmp_path / "long.webm", square(seconds=41.0, fps=12.0), 12.0)
    answer = predictor.predict(tmp_path / "long.webm")
    assert answer.window_times[-1, 1] == pytest.approx(41, abs=0.2)
    assert (np.diff(answer.window_times[:, 0]) > 0).all()
    # three segments of 20, 20 and 1 s: the last is as long as a window, so it stands alone
    assert len(answer.frame_times) == pytest.approx(41 * 12, abs=2)
    assert (np.diff(answer.frame_times) > 0).all()


@pytest.mark.soak
def test_many_predictions_leave_nothing_behind(predictor: Predictor, small_video: Path) -> None:
    """No open file stays, and memory is flat: it may wobble by 50 MB, where one prediction's
    decoded frames (230 kB), if they stayed, would make 460 MB in the long run."""
    for _ in range(5):  # what is loaded and set up once
        predictor.predict(small_video)
    files, megabytes = held()
    for _ in range(rounds(2000)):
        predictor.predict(small_video)
    after = held()
    assert after[0] <= files
    assert after[1] - megabytes < 50


def test_wrong_arrays_are_named(predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"uint8 \(T, H, W, 3\) with fps"):
        predictor.predict(np.zeros((4, 8, 8, 3)), fps=12)
    with pytest.raises(UserError, match="fps"):
        predictor.predict(np.zeros((4, 8, 8, 3), np.uint8))


def test_no_weights_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    monkeypatch.setattr("vidlib.settings.REPO", tmp_path)
    with pytest.raises(UserError, match="vidlib pretrain and vidlib train"):
        Predictor()


ANSWERED = [
    "rotated_90.mov", "truncated.mp4", "no_duration_variable_rate.webm", "h264_10bit.mp4",
    "alpha.webm", "one_pixel_1fps.mp4",
]  # fmt: skip
REFUSED = ["av1.mkv", "zero_bytes.webm", "audio_only.mp3"]


@pytest.mark.filterwarnings("ignore:.*truncated.mp4")
@pytest.mark.parametrize("name", ANSWERED)
def test_odd_files_are_answered(predictor: Predictor, odd_videos: Path, name: str) -> None:
    assert predictor.predict(odd_videos / name).probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", REFUSED)
def test_odd_files_are_refused_by_name(predictor: Predictor, odd_videos: Path, name: str) -> None:
    with pytest.raises(UserError, match=name) as caught:
        predictor.predict(odd_videos / name)
    assert "\n" not in str(caught.value)


def test_a_real_clip_is_answered(predictor: Predictor, weizmann: Path) -> None:
    answer = predictor.predict(weizmann / "jack" / "ido_jack.avi")
    assert len(answer.window_times) > 1 and answer.probabilities.sum() == pytest.approx(1)
