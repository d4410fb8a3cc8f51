"""Backbones by name, published weights, what they are fed, and their identity."""

import functools
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_model_weights

from vidlib import (
    checkpoints,
    cli,
    encoders,
    evaluation,
    features,
    pretraining,
    probes,
    training,
)
from vidlib.catalog import Clip
from vidlib.predict import Predictor
from vidlib.settings import PretrainConfig, TrainConfig, UserError, profile

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet8", 256), ("resnet10", 512), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048),
     ("efficientnet_b0", 1280), ("efficientnet_v2_s", 1280), ("mobilenet_v3_small", 1024),
     ("mobilenet_v3_large", 1280), ("convnext_tiny", 768), ("vit_b_16", 768),
     ("googlenet", 1024)],
)  # fmt: skip
def test_backbones_by_name(name: str, dim: int) -> None:
    encoder = encoders.build(name, size=64)
    assert encoder.dim == dim
    images = torch.randn(2, 3, 64, 64)
    trained = encoder.train()(images)
    assert trained.shape == (2, dim) and trained.requires_grad
    with torch.inference_mode():
        a, b = encoder.eval()(images), encoder(images)
    assert a.shape == (2, dim) and torch.equal(a, b)  # no dropout while it is read
    with torch.device("meta"):
        again = encoders.build(**encoder.spec())
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }


def test_small_stem_keeps_more_pixels_and_fits_resnets_only() -> None:
    assert encoders.build("resnet8", "small").eval()(torch.randn(1, 3, 32, 32)).shape == (1, 256)
    with pytest.raises(UserError, match="small"):
        encoders.build("mobilenet_v3_small", "small")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet999",), "no backbone"),
        (("ResNet18",), "such as resnet101"),
        (("fasterrcnn_resnet50_fpn",), "no backbone"),  # it finds things, it names none
        (("resnet10", "huge"), "stem"),
        (("resnet10", "imagenet", "imagenet"), "no ImageNet weights"),
        (("resnet18", "small", "imagenet"), "do not fit"),
        (("resnet18", "imagenet", "kinetics"), "no Kinetics weights: use --backbone swin3d_t"),
        (("swin3d_t", "imagenet", "imagenet"), "no ImageNet weights: use --init kin"),
        (("swin3d_t", "small"), "for ResNets"),
        (("r3d_18",), "choose swin3d_t"),
        (("squeezenet1_0",), "no final linear layer"),
        (("vit_b_16", "imagenet", "none", 100), "100 pixels .* multiple of 16"),
        (("inception_v3", "imagenet", "none", 64), "use --size 75"),
        (("resnet10", "imagenet", "/no/such/file.pth"), "no weights at"),
    ],
)
def test_mistakes_are_named(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        encoders.build(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_a_backbone_goes_the_whole_way_from_the_command_line(
    quick_clips: Sequence[Clip], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, classifier = tmp_path / "encoder.pth", tmp_path / "classifier.pth"
    for clip in [*quick_clips[:4], *quick_clips[-4:]]:  # two actions and people are enough
        for split in ("train", "val"):
            folder = tmp_path / "videos" / split / str(clip.action)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip.path, folder)
    few = ["--data", str(tmp_path / "videos"), "--device", "cpu"]
    small = ["--steps", "2", "--batch-clips", "4", "--frames-per-clip", "2", "--size", "32"]
    assert cli.main(["pretrain", *few, *small, "--backbone", name, "--out", str(encoder)]) == 0
    weights = ["--encoder", str(encoder), "--out", str(classifier)]
    assert cli.main(["train", *few, "--steps", "2", *weights]) == 0
    predictor = Predictor(encoder, classifier, CPU)
    assert predictor.encoder.name == name
    answer = predictor.predict(quick_clips[0].path)
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
    capsys.readouterr()


# What a machine downloads, here from a server that the test starts


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server on 127.0.0.1, its address, and the files it gives: {name: content}."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what it downloads, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@functools.cache
def published(name: str) -> tuple[dict[str, torch.Tensor], bytes]:
    """Weights of the format that torchvision publishes: as tensors, and as a file's content."""
    state, file = get_model(name).state_dict(), io.BytesIO()
    torch.save(state, file)
    return state, file.getvalue()


def point_to(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setattr(get_model_weights(name).DEFAULT.value, "url", url)


@pytest.mark.parametrize(
    ("name", "weights"), [("mobilenet_v3_small", "imagenet"), ("swin3d_t", "kinetics")]
)
def test_published_weights_are_fetched_once_and_all_of_them_used(
    name: str, weights: str, served: tuple[str, dict[str, bytes]], cached: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    address, files = served
    point_to(monkeypatch, name, f"{address}/{name}.pth")
    state, files[f"{name}.pth"] = published(name)
    encoder = encoders.build(name, weights=weights)
    assert all(torch.equal(v, state[k]) for k, v in encoder.net.state_dict().items())
    assert set(state) - set(encoder.net.state_dict()) <= {
        f"{layer}.{part}" for layer in ("head", "classifier.3") for part in ("weight", "bias")
    }
    files.clear()  # the second time from the cache
    again = encoders.build(name, weights=weights)
    assert encoders.identity(again) == encoders.identity(encoder)
    assert [p.name for p in cached.iterdir()] == [f"{name}.pth"]


def test_weights_that_cannot_be_reached_are_one_clear_error(
    served: tuple[str, dict[str, bytes]], cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, reason in ((f"{served[0]}/none.pth", "404"), ("http://127.0.0.1:9/w.pth", "refused")):
        point_to(monkeypatch, "resnet18", url)
        with pytest.raises(UserError, match=f"could not be fetched from {url} .*{reason}.*network"):
            encoders.build("resnet18", weights="imagenet")
    assert not list(cached.iterdir())


def _renamed(content: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save({f"x.{k}": v for k, v in content.items()}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("w-0123abcd.pth", lambda: published("mobilenet_v3_small")[1]),  # not the hash of its name
        ("w.pth", lambda: b"<html>please log in</html>"),
        ("w.pth", lambda: b""),
        ("w.pth", lambda: published("mobilenet_v3_small")[1][:100_000]),  # the line broke
        ("w.pth", lambda: _renamed(published("mobilenet_v3_small")[0])),  # of another network
        ("w.pth", lambda: published("swin3d_t")[1]),
    ],
)
def test_a_wrong_file_is_one_clear_error_and_is_not_kept(
    file: str, content: Callable[[], bytes], served: tuple[str, dict[str, bytes]], cached: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    address, files = served
    files[file] = content()
    point_to(monkeypatch, "mobilenet_v3_small", f"{address}/{file}")
    with pytest.raises(UserError, match="is not the weights of mobilenet_v3_small: try again"):
        encoders.build("mobilenet_v3_small", weights="imagenet")
    assert not list(cached.iterdir())
    # and the next try, of the right file, succeeds
    files["w.pth"] = published("mobilenet_v3_small")[1]
    point_to(monkeypatch, "mobilenet_v3_small", f"{address}/w.pth")
    encoders.build("mobilenet_v3_small", weights="imagenet")


def test_a_vision_transformers_positions_are_interpolated_to_the_pictures_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = get_model("vit_b_16").state_dict()
    state["encoder.pos_embedding"] = torch.linspace(-1, 1, 197)[None, :, None].expand(1, -1, 768)
    kind = type(get_model_weights("vit_b_16").DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **__: dict(state))
    encoder = encoders.build("vit_b_16", weights="imagenet", size=64)
    places = encoder.net.encoder.pos_embedding[0, :, 0]
    assert len(places) == 17 and places[0] == -1  # 4 x 4 patches and the token's own
    grid = places[1:].view(4, 4)
    assert (grid.diff(dim=0) > 0).all() and (grid.diff(dim=1) > 0).all()  # in their order
    assert encoder.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 768)


# Encoders of clips


@functools.cache
def swin() -> encoders.FrameEncoder:
    torch.manual_seed(0)
    return encoders.build("swin3d_t").eval()


@pytest.mark.parametrize("length", [1, 5, 34])
def test_a_clip_encoder_gives_every_frame_a_feature(length: int) -> None:
    clip = torch.randn(1, length, 3, 32, 32)
    with torch.inference_mode():
        out = swin()(clip)
    assert out.shape == (1, length, swin().dim) and swin().dim == 768
    torch.testing.assert_close(out[:, 0 : length // 2 * 2 : 2], out[:, 1::2])  # two share a token
    assert not length > 2 or not torch.allclose(out[:, 0], out[:, 2])


def test_a_clip_encoders_mean_over_time_is_the_networks_own_answer() -> None:
    clip = torch.randn(2, 8, 3, 32, 32)
    with torch.inference_mode():
        whole = swin().net(clip.transpose(1, 2))
        torch.testing.assert_close(swin()(clip).mean(1), whole, atol=1e-5, rtol=1e-4)


def test_a_clip_encoder_sees_motion() -> None:
    """The same frame twice is not the same frame before another: its tokens hold time."""
    a, b = torch.randn(2, 1, 1, 3, 32, 32)
    with torch.inference_mode():
        still = swin()(torch.cat([a, a, a, a], dim=1))
        moving = swin()(torch.cat([a, b, a, b], dim=1))
    assert not torch.allclose(still, moving, atol=1e-3)


def test_a_clip_encoder_serves_transformer_probe_and_predictor_and_no_simsiam(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    config = PretrainConfig.of(profile("quick"), backbone="swin3d_t", size=32, steps=0)
    few, out = quick_clips[::11], tmp_path / "swin.pth"
    encoder, history = pretraining.pretrain(few, config, out, CPU, progress=False)
    assert history == []
    loaded, meta = checkpoints.load_encoder(out)
    assert isinstance(loaded, encoders.ClipEncoder)
    assert meta["id"] == encoders.identity(encoder)
    x = features.extract_features(loaded, few, config.sampling, CPU, progress=False, keep=False)
    assert all(f.shape == (24, 768) and np.isfinite(f).all() for f in x)
    labels = [str(c.action) for c in few]
    assert len(set(labels)) > 1
    assert len(probes.linear_probe(probes.pool(x), labels, probes.pool(x))) == len(few)
    classifier = tmp_path / "classifier.pth"
    belongs = {"encoder_id": meta["id"], "sampling": meta["sampling"]}
    train = replace(TrainConfig.of(profile("quick")), steps=2)
    training.train_classifier(x, labels, train, classifier, belongs, CPU, progress=False)
    assert Predictor(out, classifier, CPU).predict(few[0].path).frame_weights.shape == (24,)
    with pytest.raises(UserError, match="SimSiam needs an encoder of single frames.*--steps 0"):
        pretraining.pretrain(few, replace(config, steps=1), device=CPU, progress=False)


def test_no_step_keeps_the_encoder_as_it_starts(
    quick_clips: Sequence[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start.pth"
    few = ["--data", str(quick_clips[0].path.parent), "--device", "cpu"]
    assert cli.main(["pretrain", *few, "--steps", "0", "--out", str(out)]) == 0
    assert "resnet8 as it starts (weights: none): saved" in capsys.readouterr().out
    start = evaluation.untrained(PretrainConfig.of(profile("quick")))
    assert checkpoints.load_encoder(out)[1]["id"] == encoders.identity(start)


def test_identity_follows_the_weights() -> None:
    torch.manual_seed(0)
    a = encoders.build()
    torch.manual_seed(0)
    b = encoders.build()
    assert encoders.identity(a) == encoders.identity(b)
    with torch.no_grad():
        next(b.parameters()).view(-1)[0] += 1e-3
    assert encoders.identity(a) != encoders.identity(b)


def test_red_stays_red_up_to_the_model_and_the_median_takes_the_blue_wall_away() -> None:
    clip = torch.zeros(1, 5, 3, 8, 8, dtype=torch.uint8)
    clip[:, :, 2] = 255  # a blue wall (channel 2 of RGB)
    for t in range(5):  # a red square moves over it
        clip[0, t, :, 2:4, t : t + 2] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    plain = encoders.to_float(clip, "none")
    assert plain[0, 0, :, 2, 0].tolist() == [1, 0, 0]
    assert plain[0, 0, :, 7, 7].tolist() == [0, 0, 1]
    moving = encoders.to_float(clip, "median")
    assert moving[0, :, :, 7, 7].abs().max() == 0  # the wall is gone
    assert moving[0, 0, :, 2, 0].tolist() == [1, 0, -1]  # red came, blue went


def test_unknown_background_is_named() -> None:
    with pytest.raises(UserError, match="background"):
        encoders.to_float(torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8), "wall")
