"""Weight files: whole or not at all, no code, and only with the encoder they belong to."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from vidlib import checkpoints, encoders
from vidlib.settings import UserError
from vidlib.temporal import TemporalTransformer

META = {"key": "k", "sampling": {"size": 64}, "config": {}, "history": [{"loss": 1.0}]}


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    checkpoints.save_encoder(tmp_path / "encoder.pth", encoders.build(), META)
    return tmp_path / "encoder.pth"


def test_an_encoder_comes_back_the_same(tmp_path: Path) -> None:
    encoder = encoders.build(stem="small").eval()
    path = tmp_path / "deep" / "folder" / "encoder.pth"
    checkpoints.save_encoder(path, encoder, META)
    loaded, meta = checkpoints.load_encoder(path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder(x), loaded(x))
    assert meta["id"] == encoders.identity(encoder) and meta["history"] == META["history"]
    assert checkpoints.stored_key(path) == "k"


def test_a_classifier_is_refused_with_another_encoder(tmp_path: Path) -> None:
    model, path = TemporalTransformer(8, 3, width=16, window=4), tmp_path / "c.pth"
    checkpoints.save_classifier(
        path, model, {**META, "classes": ["a", "b", "c"], "encoder_id": "one"}
    )
    assert checkpoints.load_classifier(path, "one")[1]["classes"] == ["a", "b", "c"]
    with pytest.raises(UserError, match="c.pth was trained on another encoder"):
        checkpoints.load_classifier(path, "two")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = encoder_file.read_bytes()

    def full_disk(content: object, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="encoder.pth could not be written.*No space"):
        checkpoints.save_encoder(encoder_file, encoders.build(), META)
    assert encoder_file.read_bytes() == before
    assert [p.name for p in encoder_file.parent.iterdir()] == ["encoder.pth"]


@pytest.mark.parametrize("keep", [0, 1, 100, 10_000, -1])
def test_a_damaged_file_is_one_clear_error(encoder_file: Path, keep: int) -> None:
    encoder_file.write_bytes(encoder_file.read_bytes()[:keep])
    with pytest.raises(UserError, match="encoder.pth is damaged.*vidlib pretrain"):
        checkpoints.load_encoder(encoder_file)
    assert checkpoints.stored_key(encoder_file) is None


def test_a_hostile_file_runs_no_code(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    for name, write in (("p.pth", pickle.dump), ("t.pth", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"format": 1, "kind": "frame encoder", "state": Hostile()}, file)
        with pytest.raises(UserError, match=name):
            checkpoints.load_encoder(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_wrong_kinds_and_missing_files_are_named(encoder_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no action classifier"):
        checkpoints.load_classifier(encoder_file, "x")
    with pytest.raises(UserError, match="no weights at .*vidlib train"):
        checkpoints.load_classifier(tmp_path / "none.pth", "x")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="tensor.pth"):
        checkpoints.load_encoder(tmp_path / "tensor.pth")


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet10", 64), ("regnet_x_400mf", 64), ("swin_v2_t", 256)],
)
def test_encoders_of_every_make_come_back(tmp_path: Path, name: str, size: int) -> None:
    """Some ask for a least size, some have it in their shape, some compute while they are built."""
    encoder = encoders.build(name, size=size)
    checkpoints.save_encoder(tmp_path / "e.pth", encoder, META)
    loaded, meta = checkpoints.load_encoder(tmp_path / "e.pth")
    assert loaded.spec() == encoder.spec() and meta["id"] == encoders.identity(encoder)
