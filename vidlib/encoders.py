"""A frame -> a feature. Backbones by name, starting weights by name, and what they are fed.

B clips, T frames, N = B x T images, H x W pixels, D feature size.
"""

import hashlib
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model, list_models
from torchvision.models.resnet import BasicBlock, ResNet

from . import motion
from .settings import BACKGROUNDS, STEMS, UserError

# One mean and one spread for all channels, so that grey stays grey (ImageNet's, averaged).
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

    `dim` is D, found from the layer removed. `stem="small"` (ResNets only) replaces the 7x7
    convolution and the pooling, which throw away 15 of 16 pixels, by a 3x3 one of stride 2.
    """

    def __init__(self, name: str = "resnet8", stem: str = "imagenet") -> None:
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
            try:
                self.net = get_model(name, weights=None)
            except ValueError as error:
                close = [m for m in list_models() if m.startswith(name[:4])][:8]
                raise UserError(
                    f"no backbone '{name}': choose {', '.join(STAGES)} or a torchvision model"
                    + (f", such as {', '.join(close)}" if close else "")
                ) from error
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

    def spec(self) -> dict[str, str]:
        """What `build` needs to make this encoder again."""
        return {"name": self.name, "stem": self.stem}


def build(name: str = "resnet8", stem: str = "imagenet", weights: str = "none") -> FrameEncoder:
    """An encoder with starting weights `none` (random), `imagenet`, or a file of `vidlib pretrain`.

    `imagenet` asks torchvision's own API, which downloads once to torch's cache folder.
    Raises UserError for an unknown name, or weights that do not fit.
    """
    encoder = FrameEncoder(name, stem)
    if weights == "none":
        return encoder
    if weights == "imagenet":
        if name in STAGES:
            raise UserError(f"{name} has no ImageNet weights: use --backbone resnet18 or larger")
        if stem != "imagenet":
            raise UserError("ImageNet weights do not fit the small stem: use --stem imagenet")
        try:
            full = get_model(name, weights="DEFAULT")
        except OSError as error:
            raise UserError(
                f"ImageNet weights of {name} could not be fetched ({error}): check the network"
            ) from error
        # strict=False: the last layer is ours no more
        encoder.net.load_state_dict(full.state_dict(), strict=False)
        return encoder
    from .checkpoints import load_encoder

    loaded, _ = load_encoder(Path(weights))
    if loaded.spec() != encoder.spec():
        raise UserError(f"{weights} holds {loaded.spec()}, not {encoder.spec()}: name the same")
    return loaded


def identity(encoder: nn.Module) -> str:
    """A hash of an encoder's weights: features of two encoders must never be mixed up."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
