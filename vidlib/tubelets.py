"""VideoMAE's input: the model's shape, pixels cut into tubelets, and which of them are hidden.

B clips of T frames of H x W pixels; N tubelets, which become tokens. A tubelet is `tubelet` frames
x `patch` x `patch` pixels; tubelets go slice by slice, then row by row. A tube is the same place in
every slice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import motion
from .settings import UserError

# The mean and spread of red, green and blue, in 0..1, that pictures are brought to 0 and 1 with, by
# `Config.background`. Of films as they are ImageNet's, which published weights were trained with.
# Of followed pictures, most of which is grey, a fortieth: with ImageNet's spread a tubelet's form
# is lost beside its position, and a step learns a tenth as much (notebook 08).
LEVELS = {
    "none": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "follow": ((motion.ZERO / 255,) * 3, (0.025,) * 3),
}
MOST = 2**16  # tubelets; attention to each of each is as much as a large GPU holds
RATIO = 0.9  # the share of tubes that pre-training hides (the paper's section 4.2)


@dataclass(frozen=True)
class Config:
    """A model's shape, and how it is fed. The defaults are the published base model's."""

    size: int = 224  # pixels, height and width
    frames: int = 16
    patch: int = 16  # a tubelet is `tubelet` frames x `patch` x `patch` pixels
    tubelet: int = 2
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072  # width of the MLP's inner layer
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    decoder_hidden: int = 1536
    norm_pix: bool = True  # targets are normalised per tubelet and channel
    # added to the spread that targets are divided by, in greys of 0..1: where most tubelets hold
    # noise alone, as in followed pictures, 1e-6 would make the noise the target
    floor: float = 1e-6
    mean_pool: bool = False  # True for classifiers: the mean of the tokens, not the first one
    qv_bias: bool = True
    # of the blocks' layer norms, as in the converted files; the authors' 1e-6 gives the same digits
    eps: float = 1e-12
    classes: tuple[str, ...] = ()
    # every `stride`-th frame; of a file resampled to `fps` first, unless that is None
    stride: int = 4
    fps: float | None = None
    background: str = "none"  # or "follow": what moves alone, as `motion.person` shows it

    def __post_init__(self) -> None:
        whole = {
            "size": (self.size, self.patch), "frames": (self.frames, self.tubelet),
            "width": (self.width, self.heads), "decoder_width": (self.decoder_width,
                                                                 self.decoder_heads),
        }  # fmt: skip
        counts = ("depth", "hidden", "decoder_depth", "decoder_hidden", "stride")
        whole |= {name: (getattr(self, name), 1) for name in counts}
        for name, (value, part) in whole.items():
            if not isinstance(value, int) or not isinstance(part, int):
                raise UserError(f"VideoMAE's {name} is {value!r}: choose a whole number")
            if part < 1 or value < 1 or value % part:
                raise UserError(f"VideoMAE's {name} is {value}: choose a multiple of {part}")

        if not 0 < self.eps < 1:  # nan is not
            raise UserError(f"VideoMAE's eps is {self.eps}: choose a small number above 0")
        if self.fps is not None and not 0.1 <= self.fps <= 1000:
            raise UserError(f"VideoMAE's fps is {self.fps}: choose 0.1 to 1000, or none")
        if self.tokens > MOST:
            raise UserError(f"VideoMAE's shape makes {self.tokens} tubelets: {MOST} are the most")
        if self.background not in LEVELS:
            raise UserError(f"VideoMAE's background is {self.background}: choose none or follow")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets along time, height and width."""
        return self.frames // self.tubelet, self.size // self.patch, self.size // self.patch

    @property
    def slices(self) -> int:
        return self.grid[0]

    @property
    def patches(self) -> int:
        """Tubelets in a slice."""
        return self.grid[1] * self.grid[2]

    @property
    def tokens(self) -> int:
        return self.slices * self.patches


CONFIGS: dict[str, Config] = {
    # for two cores: 128 tubelets of 2 x 8 x 8, of the studio's clips at the course's frame rate
    "small": Config(32, 16, 8, 2, 128, 4, 4, 512, 64, 2, 2, 256, floor=0.05, stride=1, fps=12.0,
                    background="follow"),
    "base": Config(),
    "large": Config(width=1024, depth=24, heads=16, hidden=4096, decoder_width=512,
                    decoder_heads=8, decoder_hidden=2048),
}  # fmt: skip


def levels(clip: Tensor, background: str) -> tuple[Tensor, Tensor]:
    """LEVELS' mean and spread (3,), where the clip is, float32 for one of bytes."""
    kind = clip.dtype if clip.is_floating_point() else torch.float32
    mean, std = (clip.new_tensor(v, dtype=kind) for v in LEVELS[background])
    return mean, std


def normalise(clip: Tensor, background: str = "none") -> Tensor:
    """uint8 (B, T, 3, H, W) -> float32 of the same shape, about zero mean and unit spread, as a
    model of that `Config.background` takes it."""
    mean, std = levels(clip, background)
    return (clip.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def tube_mask(
    batch: int, slices: int, patches: int, ratio: float, rng: torch.Generator | None = None
) -> Tensor:
    """bool (B, N), True where a tubelet is hidden: int(ratio x patches) of each slice, the same
    ones in every slice (the paper's equation 3), so that no frame shows what another hides.
    Tokens go slice by slice. ValueError if nothing would be visible or nothing hidden."""
    count = int(ratio * patches)
    if not 0 < count < patches:
        raise ValueError(f"ratio {ratio} hides {count} of {patches} tubes: choose another")
    place = torch.rand(batch, patches, generator=rng).argsort(1)
    return (place < count).repeat(1, slices)


def split(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A mask (B, N) -> the indices of its visible (B, V) and its masked tokens (B, M), in order.
    ValueError unless all clips hide equally many."""
    hidden = mask.sum(1).tolist()
    if len(set(hidden)) != 1:
        raise ValueError(f"every clip of a batch must hide equally many tubelets, not {hidden}")
    order = mask.int().argsort(dim=1, stable=True)
    return order[:, : mask.shape[1] - hidden[0]], order[:, mask.shape[1] - hidden[0] :]


def _tubelets(clip: Tensor, config: Config) -> Tensor:
    """A view of the clip (B, T, 3, H, W): (B, slices, rows, columns, tubelet, patch, patch, 3)."""
    (slices, rows, columns), p = config.grid, config.patch
    x = clip.unflatten(4, (columns, p)).unflatten(3, (rows, p))
    return x.unflatten(1, (slices, config.tubelet)).permute(0, 1, 4, 6, 2, 5, 7, 3)


def take(clip: Tensor, index: Tensor, config: Config) -> Tensor:
    """The pixels of some tubelets, (B, n) -> (B, n, tubelet x patch x patch, 3); no others are
    copied."""
    rows = torch.arange(len(clip), device=clip.device)[:, None]
    x = _tubelets(clip, config)[rows, *torch.unravel_index(index, config.grid)]
    return x.flatten(2, 4)


def put(clip: Tensor, index: Tensor, pixels: Tensor, config: Config) -> Tensor:
    """A copy of the clip with the tubelets `index` replaced: `take`'s inverse."""
    out = clip.clone()
    rows = torch.arange(len(clip), device=clip.device)[:, None]
    shape = (config.tubelet, config.patch, config.patch)
    _tubelets(out, config)[rows, *torch.unravel_index(index, config.grid)] = pixels.unflatten(
        2, shape
    )
    return out


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions (Vaswani et al. 2017, section 3.5) of the flattened tubelets:
    (length, width). In float64 until the end: at 1,568 a float32 angle is off by 1e-4."""
    channel = torch.arange(width)
    rate = 10_000.0 ** (-2 * (channel // 2).double() / width)
    angle = torch.arange(length).double()[:, None] * rate
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
