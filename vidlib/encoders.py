"""A frame -> a feature. Backbones by name, starting weights by name, and what they are fed.

B clips, T frames, N = B x T images, H x W pixels, D feature size.
"""

import hashlib
import pickle
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from . import motion
from .settings import BACKGROUNDS, STEMS, UserError

# One mean and one spread for all channels, so that grey stays grey (ImageNet's, averaged). The
# published weights know a mean for each channel, 0.485, 0.456 and 0.406: to them a picture is
# tinted by 0.2 of a spread at most, and differences ("median", "follow") are no photographs anyway.
PIXEL_MEAN, PIXEL_STD = 0.45, 0.225
# Grey levels that count as 1: with "follow" a strong difference (motion.CONTRAST) becomes 0.6, as
# strong as a black shirt before a light wall.
LEVELS = {"none": 255.0, "median": 255.0, "follow": 170.0}


def to_float(clip: Tensor, background: str) -> Tensor:
    """uint8 (B, T, 3, H, W) -> float32 of the same shape; "none": in [0, 1], else [-1, 1].

    With "median" the clip's median frame is subtracted: what stands still (wall, furniture, and a
    body at rest) becomes 0, what moves stays. It presumes a camera that stands still. With
    "follow" the clip is what `motion.person` made, from which that is subtracted already.
    """
    if background not in BACKGROUNDS:
        raise UserError(f"background '{background}' is unknown: choose {', '.join(BACKGROUNDS)}")
    x = clip.float()
    if background == "median":
        x = x - x.median(dim=1, keepdim=True).values
    elif background == "follow":
        x = x - motion.ZERO
    return x / LEVELS[background]


def normalise(x: Tensor, background: str) -> Tensor:
    """Bring `to_float`'s result to about zero mean and unit spread; any shape."""
    return (x - PIXEL_MEAN) / PIXEL_STD if background == "none" else x / PIXEL_STD


# Stages of a ResNet with one block in each: what two laptop cores can train in minutes. Of a
# picture of 64 pixels the fourth stage would see 2 x 2 places, and take half as long as the others
# together.
STAGES = {"resnet8": 3, "resnet10": 4}


class FrameEncoder(nn.Module):
    """A torchvision classification network without its last layer: (N, 3, H, W) -> (N, D).

    `dim` is D, found from the layer removed, the last linear one. What else is in the classifier
    stays: EfficientNet's dropout, ConvNeXt's layer norm, MobileNetV3's first linear layer, its
    hard-swish and dropout. `stem="small"` (ResNets only) replaces the 7x7 convolution and the
    pooling, which throw away 15 of 16 pixels, by a 3x3 one of stride 2. `size` is the pictures'
    side in pixels: Vision Transformers have a position for every patch, and some networks ask for
    more than others (torchvision's `min_size`).
    """

    def __init__(self, name: str = "resnet8", stem: str = "imagenet", size: int = 224) -> None:
        super().__init__()
        if stem not in STEMS:
            raise UserError(f"stem '{stem}' is unknown: choose {' or '.join(STEMS)}")
        self.name, self.stem = name, stem
        if name in STAGES:
            net = ResNet(BasicBlock, [1, 1, 1, 1])
            if STAGES[name] == 3:
                net.layer4, net.fc = nn.Identity(), nn.Linear(256, 1000)
            self.net: nn.Module = net
        else:
            asked: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
            aux: dict[str, Any] = {}
            if name in ("googlenet", "inception_v3"):  # else they answer thrice while training
                aux = {"aux_logits": False, "init_weights": True}
            names = list_models(models) + list_models(models.video)  # of pictures, and of clips
            if name not in names:
                close = [m for m in names if m.startswith(name[:4].lower())][:8]
                raise UserError(
                    f"no backbone '{name}': choose {', '.join(STAGES)} or a torchvision classifier"
                    + (f", such as {', '.join(close)}" if close else "")
                )
            try:
                self.net = get_model(name, weights=None, **asked, **aux)
            except AssertionError as error:  # of the Vision Transformer
                raise UserError(
                    f"{size} pixels cannot be cut into {name}'s patches: choose a --size that is a "
                    f"multiple of {name.rpartition('_')[2]}"
                ) from error
            # positions are made for any size
            least = 0 if asked else max(_published(name).meta["min_size"])
            if size < least:
                raise UserError(f"{name} needs pictures of {least} pixels: use --size {least}")
        if stem == "small":
            if not isinstance(self.net, ResNet):
                raise UserError(f"stem 'small' is for ResNets, not for {name}: use stem 'imagenet'")
            self.net.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
            self.net.maxpool = nn.Identity()
        self.dim = self._drop_last_linear()

    def _drop_last_linear(self) -> int:
        linears = [n for n, m in self.net.named_modules() if isinstance(m, nn.Linear)]
        if not linears:
            raise UserError(f"{self.name} has no final linear layer to remove: choose a classifier")
        parent, _, leaf = linears[-1].rpartition(".")
        owner = self.net.get_submodule(parent)
        last = owner.get_submodule(leaf)
        setattr(owner, leaf, nn.Identity())
        return int(last.in_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def spec(self) -> dict[str, Any]:
        """What `build` needs to make this encoder again."""
        size = {"size": self.net.image_size} if isinstance(self.net, VisionTransformer) else {}
        return {"name": self.name, "stem": self.stem, **size}


class ClipEncoder(FrameEncoder):
    """torchvision's Swin3D (Liu et al., "Video Swin Transformer", CVPR 2022) without its last
    layer: consecutive frames (B, T, 3, H, W) -> (B, T, D).

    Its tokens hold two frames each. Their mean over the picture is the feature of both, so that a
    feature belongs to a frame as everywhere else, and the network's own mean over time is left
    out: the Transformer or the probe after it sees when. T of any length is read in pieces of
    PIECE, what the published weights were trained on.
    """

    PIECE = 32

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._piece(piece) for piece in x.split(self.PIECE, dim=1)], dim=1)

    def _piece(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if length % 2:  # the last frame again; the network itself would add a black one
            x = torch.cat([x, x[:, -1:]], dim=1)
        tokens = self.net.norm(self.net.features(self.net.patch_embed(x.transpose(1, 2))))
        return tokens.mean((2, 3)).repeat_interleave(2, dim=1)[:, :length]


def build(
    name: str = "resnet8", stem: str = "imagenet", weights: str = "none", size: int = 224
) -> FrameEncoder:
    """An encoder by name, a ClipEncoder for `swin3d_t` and its like, with starting weights `none`
    (random), `imagenet` or for a ClipEncoder `kinetics` (torchvision's own, downloaded once to
    torch's cache folder), or a file of `vidlib pretrain`.

    Raises UserError for an unknown name, weights that do not fit, or cannot be fetched.
    """
    kind = FrameEncoder
    if name in list_models(models.video):
        if not name.startswith("swin3d"):
            raise UserError(f"{name} gives one feature a clip, not one a frame: choose swin3d_t")
        kind = ClipEncoder
    encoder = kind(name, stem, size)
    if weights == "none":
        return encoder
    if weights in ("imagenet", "kinetics"):
        _load_published(encoder, weights)
        return encoder
    from .checkpoints import load_encoder

    loaded, _ = load_encoder(Path(weights))
    if loaded.spec() != encoder.spec():
        raise UserError(f"{weights} holds {loaded.spec()}, not {encoder.spec()}: name the same")
    return loaded


def _published(name: str) -> WeightsEnum:
    """torchvision's best weights of a network, and what it says of them."""
    return get_model_weights(name).DEFAULT  # type: ignore[attr-defined]


def _load_published(encoder: FrameEncoder, weights: str) -> None:
    """Fill an encoder with torchvision's weights trained on the data set called `weights`."""
    name, said = encoder.name, {"imagenet": "ImageNet", "kinetics": "Kinetics"}[weights]
    entry = None if name in STAGES else _published(name)
    if entry is None or not entry.name.startswith(weights.upper()):
        fits = "--backbone resnet18 or larger" if weights == "imagenet" else "--backbone swin3d_t"
        if isinstance(encoder, ClipEncoder):
            fits = "--init kinetics"
        raise UserError(f"{name} has no {said} weights: use {fits}")
    if encoder.stem != "imagenet":
        raise UserError(f"{said} weights do not fit the small stem: use --stem imagenet")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        state = entry.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
        if isinstance(encoder.net, VisionTransformer):  # positions for another number of patches
            net = encoder.net
            state = interpolate_embeddings(net.image_size, net.patch_size, state)
        # the last layer is ours no more; all else must be there
        if lacking := encoder.net.load_state_dict(state, strict=False).missing_keys:
            raise KeyError(lacking[0])
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{said} weights of {name} could not be fetched from {entry.url} ({error}): check the "
            f"network, or put the file into {file.parent}"
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError,
            ValueError) as error:  # fmt: skip
        file.unlink(missing_ok=True)  # or it would be found there for ever
        raise UserError(
            f"what came from {entry.url} is not the weights of {name}: try again, or put the right "
            f"file into {file.parent}"
        ) from error


def of_frames(encoder: FrameEncoder, what: str) -> None:
    """UserError for a clip encoder, where `what` encodes single frames, far apart in time."""
    if isinstance(encoder, ClipEncoder):
        raise UserError(
            f"{what} needs an encoder of single frames, and {encoder.name} reads clips: take its "
            "weights as they are (vidlib pretrain --init kinetics --steps 0), or another --backbone"
        )


def identity(encoder: nn.Module) -> str:
    """A hash of an encoder's weights: features of two encoders must never be mixed up."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
