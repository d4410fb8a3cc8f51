"""The command line end to end on own clips, its help, its mistakes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlib import settings, video
from vidlib.catalog import Clip
from vidlib.checkpoints import stored_key
from vidlib.cli import main
from vidlib.encoders import identity
from vidlib.predict import Predictor
from vidlib.settings import PretrainConfig, TrainConfig, UserError

TINY = ["--steps=3", "--batch-clips=4", "--size=32"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with six own clips of two actions, flat and in folders, no val."""
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw_videos" / "train"
    for i, name in enumerate(["waving/a", "waving/b", "waving/c", "clapping_1", "clapping_2",
                              "clapping_3"]):  # fmt: skip
        frames = rng.integers(0, 255, (15, 48, 64, 3), np.uint8)
        frames[:, 10 + i : 20 + i] = 30
        path = raw / f"{name}.webm"
        path.parent.mkdir(parents=True, exist_ok=True)
        video.write_video(path, frames, 10)
    return tmp_path


def test_own_clips_from_pretraining_to_prediction(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "raw_videos" / "train" / "broken.mp4").write_bytes(b"no video")
    assert main(["inspect"]) == 0
    out = capsys.readouterr().out
    assert "skipped:" in out and "broken.mp4" in out and "6 of your own" in out
    assert main(["pretrain", *TINY]) == 0
    assert settings.encoder_path().is_file()
    assert main(["train", "--steps=2"]) == 0
    assert "confusion" in capsys.readouterr().out
    assert main(["embed"]) == 0
    kept = np.load(own / "results" / "features.npz")
    assert kept["pooled"].shape == (6, 512) and (own / "results" / "features.png").is_file()
    assert main(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["accuracy"] <= 1

    frozen, key = Predictor(), stored_key(settings.classifier_path())
    assert main(["train", "--steps=2", "--masked=2"]) == 0
    assert stored_key(settings.classifier_path()) != key
    assert (own / "cache" / "masked_features.pth").is_file()
    assert main(["train", "--steps=2", "--masked=0"]) == 0
    assert stored_key(settings.classifier_path()) == key
    capsys.readouterr()

    encoder = settings.encoder_path().read_bytes()
    assert main(["train", "--finetune=2"]) == 0
    assert " clips, 2 steps, " in capsys.readouterr().out
    assert settings.encoder_path().read_bytes() == encoder  # the tuned one is the classifier's
    tuned = Predictor()
    assert identity(tuned.encoder) != identity(frozen.encoder) == frozen.meta["encoder_id"]
    assert tuned.meta["encoder_id"] == frozen.meta["encoder_id"]

    one = own / "raw_videos" / "train" / "waving" / "a.webm"
    assert main(["predict", str(one)]) == 0
    assert "your own weights" in capsys.readouterr().out
    assert main(["predict", "--json", str(one)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["probabilities"]) == {"waving", "clapping"} and answer["timeline"]
    assert main(["predict", "--json", str(one), str(own / "raw_videos")]) == 2  # one is broken
    both = capsys.readouterr()
    assert len(json.loads(both.out)) == 7 and "broken.mp4" in both.err


def test_ctrl_c_saves_and_the_same_command_goes_on(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidlib import pretraining

    measure = pretraining.collapse_measure

    def interrupting(z: object) -> float:
        os.kill(os.getpid(), signal.SIGINT)  # as the terminal does, in the middle of a step
        return measure(z)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "collapse_measure", interrupting)
        assert main(["pretrain", *TINY]) == 130
    err = capsys.readouterr().err
    assert "stopped after step 1 of 3: saved to" in err and "Traceback" not in err
    assert not settings.encoder_path().exists()
    assert main(["pretrain", *TINY]) == 0
    assert settings.encoder_path().is_file()


def test_leave_one_person_out_runs_whole(
    quick_clips: Sequence[Clip], own_data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source=studio", "--protocol=leave-one-person-out", "--train-steps=2", *TINY]
    assert main(["evaluate", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.count("seed 0, without") >= 4  # the quick data's people
    for line in ("pretrained  transformer", "untrained   transformer"):
        assert line in out
    assert out.count("confusion") == 2
    assert main(["pretrain", "--source=studio", *TINY]) == 0
    capsys.readouterr()
    given = ["--encoder", str(settings.encoder_path())]
    assert main(["evaluate", *arguments, *given]) == 0  # one encoder for every fold
    told = capsys.readouterr()
    assert "pretrained  transformer" in told.out and "pre-training" not in told.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "no/such/file.mp4"], "no/such/file.mp4"),
        (["--profile", "huge", "doctor"], "quick, standard, full"),
        (["inspect", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "--encoder", "none.pth"], "vidlib pretrain"),
        (["pretrain", "--device", "tpu9"], "tpu9"),
        (["predict"], "VIDEO: see vidlib predict --help"),
        (["fly"], "choose from"),
        (["pretrain", "--steps", "many"], "invalid int value: 'many'"),
        (["evaluate", "--seeds", "0"], "0 is not a whole number of 1 or more"),
        (["studio", "--seed", "-1"], "-1 is not a whole number of 0 or more"),
        (["train", "--steps", "0"], "--steps is 0: choose 1 or more"),
        (["pretrain", "--background", "wall"], "choose one of follow, median, none"),
        (["train", "--dropout", "nan"], "--dropout is nan: choose 0 to 0.95"),
        (["train", "--finetune-lr", "nan"], "nan is not a number above 0"),
        (["download", "imagenet"], "choose one of weizmann, kth, ucf101, hmdb51"),
        (["download", "kth", "--mirror", "nowhere"], "neither a folder here nor an http address"),
        (["inspect", "--data", "ucf101"], "vidlib download ucf101"),
        (["evaluate", "--protocol", "official"], "no official protocol"),
        (["train", "--masked", "2", "--finetune", "2"], "leave out either it or --finetune"),
        (["train", "--heads", "3"], "--width is 64: choose an even multiple of --heads, 3"),
        (
            ["evaluate", "--protocol", "leave-one-person-out", "--train-depth", "0"],
            "--train-depth is 0",
        ),
    ],
)
def test_mistakes_exit_2_with_one_line(
    arguments: list[str], says: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err.strip()
    assert code == 2 and says in err
    assert "Traceback" not in err and len(err.splitlines()) == 1, err


@pytest.mark.parametrize(("command", "config"), [("pretrain", PretrainConfig),
                                                 ("train", TrainConfig)])  # fmt: skip
def test_every_parameter_is_an_option_with_its_default(
    command: str, config: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for f in fields(config):
        assert "--" + f.name.replace("_", "-") in out, f.name
    assert out.count("(default:") >= len(fields(config))


@pytest.mark.parametrize("command", ["studio", "course", "pretrain"])
def test_a_data_folder_that_cannot_be_made_is_one_line(
    command: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = own / "file"
    place.write_text("no folder")
    clips = ["--data", str(own / "raw_videos"), *TINY] if command == "pretrain" else []
    monkeypatch.setenv("VIDLIB_DATA", str(place))
    assert main([command, *clips]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vidlib:")]
    assert len(err) == 1 and str(place) in err[0] and "VIDLIB_DATA" in err[0]


@given(st.sampled_from([PretrainConfig, TrainConfig]), st.data())
def test_no_number_outside_its_range_makes_a_config(config: type, data: st.DataObject) -> None:
    numbers = [f for f in fields(config) if type(f.default) in (int, float)]
    f = data.draw(st.sampled_from(numbers))
    assert f.metadata["low"] is not None, f"{f.name} has no range"
    outside = st.floats(max_value=f.metadata["low"], exclude_max=True) | st.just(float("nan"))
    if f.metadata["high"] < float("inf"):
        outside |= st.floats(min_value=f.metadata["high"], exclude_min=True)
    with pytest.raises(UserError, match=f"--{f.name.replace('_', '-')} is"):
        config(**{f.name: data.draw(outside)})


def test_help_needs_no_torch() -> None:
    code = "import sys; from vidlib.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    code += "\nassert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
