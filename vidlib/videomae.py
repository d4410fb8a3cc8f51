"""VideoMAE (Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for
Self-Supervised Video Pre-Training", NeurIPS 2022), whole: pixels in, pixels or actions out.

B clips of T frames; N tubelets (tokens), V of them visible, M masked; C token width; K actions.
Parameters have the names that they have in the authors' files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from . import checkpoints, published
from .settings import UserError
from .tubelets import CONFIGS, Config, levels, normalise, put, sinusoids, split, take, tube_mask

__all__ = ["CONFIGS", "Classifier", "Config", "Pretrainer", "VideoMAE", "normalise",
           "parameter_groups", "split", "tube_mask"]  # fmt: skip


# keys up to which attention in bfloat16 on a CPU is written out. torch's fused kernel takes two to
# three times as long at 512, forward and backward; at 1,568 as long forward, which is all that
# answering needs and saves memory, and a seventh longer with the way back, so training goes on to
WRITTEN_OUT, IN_TRAINING = 1024, 2048


class Attention(nn.Module):
    """Multi-head attention, one matrix for queries, keys and values; keys have no bias, which
    would cancel in the softmax: (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.proj = nn.Linear(width, width)

    def _qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """-> queries, keys, values, each (B, heads, N, C / heads)."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        x = F.linear(x, self.qkv.weight, bias)
        return x.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def weights(self, x: Tensor) -> Tensor:
        """How much each token looks at each: (B, heads, N queries, N keys), rows summing to 1."""
        q, k, _ = self._qkv(x)
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._qkv(x)
        few = IN_TRAINING if q.requires_grad else WRITTEN_OUT
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[2] <= few:
            q = q * q.shape[-1] ** -0.5
            with torch.autocast("cpu", enabled=False):  # or the weights would be kept in float32
                # a few clips after the others: less memory, and cached
                parts = (t.split(max(1, 512 // t.shape[2])) for t in (q, k, v))
                x = torch.cat([(q @ k.mT).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)])
        else:
            x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, each left out for some clips while training (stochastic depth,
    Huang et al., ECCV 2016, called drop path): (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, hidden: int, config: Config, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = Attention(width, heads, config.qv_bias)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = MLP(width, hidden)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Each tubelet to a token by a convolution: (B, T, 3, H, W) -> (B, N, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        side = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.width, side, stride=side)

    def forward(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        """With `index` (B, V) those tubelets alone: a tenth of the work when nine are hidden."""
        if index is None:
            return self.proj(clip.transpose(1, 2)).flatten(2).mT
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(take(clip, index, self.config).flatten(2), weight, self.proj.bias)


class _Model(nn.Module):
    """What the three models share: their config, and weights from and to files."""

    needs: ClassVar[str] = ""  # a parameter without which weights are not this model's

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(cls, source: str | Path, config: Config | None = None) -> Self:
        """A model with published or own weights, in eval mode on the CPU.

        `source`: an id on the Hugging Face Hub, such as MCG-NJU/videomae-base (downloaded once,
        into the Hub's own cache); a folder with config.json beside model.safetensors or
        pytorch_model.bin; a file of `videomae_loops`; or a file of the authors
        (.pth), whose `config` has to be given. Names of the authors and of `transformers` are
        understood. Warns that published weights are for non-commercial use. UserError when there
        are none, or they are another kind of model's.
        """
        with checkpoints.sound(source, "name another"):
            state, fields = published.read(source)
            published.check(state, cls.needs, source)
            if config is None and fields is None:
                raise UserError(
                    f"{source} does not say its shape: give config=CONFIGS['base'], say"
                )
            config = config or Config(**fields)
            if max(config.depth, config.decoder_depth) > len(state):
                raise UserError(f"{source} has fewer parameters than layers: name another")
            with torch.device("meta"):  # without memory: a damaged file may ask for too much
                bare = cls(config)
            state = published.fitting(bare, state, source)
            model = cls(config)
            model.load_state_dict(state)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which `from_pretrained` and `transformers`
        read. UserError when the folder cannot be written or safetensors is missing."""
        published.write(self, Path(folder))


def _initialise(module: nn.Module) -> None:
    """As the authors pre-train: Xavier (Glorot & Bengio, 2010) for matrices, 0 for biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class VideoMAE(_Model):
    """The encoder: float (B, T, 3, H, W), as `normalise` makes it -> tokens (B, N, C), or, with a
    mask (B, N), those of the visible tubelets alone (B, V, C)."""

    positions: Tensor

    def __init__(self, config: Config, drop_path: float = 0.0) -> None:
        super().__init__(config)
        c = config
        self.patch_embed = PatchEmbed(c)
        self.register_buffer("positions", sinusoids(c.tokens, c.width), persistent=False)
        # deeper blocks more often
        drops = [drop_path * i / max(1, c.depth - 1) for i in range(c.depth)]
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.hidden, c, d) for d in drops)
        self.norm = nn.Identity() if c.mean_pool else nn.LayerNorm(c.width, eps=c.eps)
        self.apply(_initialise)

    def embed(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        """Tokens with their positions, before the first block; with `index` (B, V) those alone."""
        want = (self.config.frames, 3, self.config.size, self.config.size)
        if clip.shape[1:] != want:
            raise ValueError(f"a clip must be (B, {', '.join(map(str, want))}), "
                             f"not {tuple(clip.shape)}")  # fmt: skip
        positions = self.positions if index is None else self.positions[index]
        x = self.patch_embed(clip, index)
        # in this order the sum is contiguous, as the convolution's transposed tokens are not: every
        # norm after it would copy
        return positions.to(x.dtype) + x

    def states(self, clip: Tensor, index: Tensor | None = None) -> Iterator[Tensor]:
        """The tokens before the first block and after each one: depth + 1 of (B, N, C)."""
        x = self.embed(clip, index)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def encode(self, clip: Tensor, index: Tensor | None = None) -> Tensor:
        """The tokens after the last block: (B, N, C); with `index` (B, V) those alone."""
        x = self.embed(clip, index)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, clip: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.encode(clip, None if mask is None else split(mask)[0])

    @torch.no_grad()
    def attentions(self, clip: Tensor) -> Tensor:
        """How much each token looks at each, in every block: (depth, B, heads, N, N). For maps;
        `forward` never holds these weights."""
        pairs = zip(self.blocks, self.states(clip), strict=False)
        return torch.stack([block.attn.weights(block.norm1(x)) for block, x in pairs])


class Decoder(nn.Module):
    """A few narrow blocks, then the pixels of the last `count` tokens: (B, N, D) -> (B, M, P)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, width = config, config.decoder_width
        self.blocks = nn.ModuleList(
            Block(width, c.decoder_heads, c.decoder_hidden, c, 0.0) for _ in range(c.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3 * c.tubelet * c.patch**2)

    def forward(self, x: Tensor, count: int) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -count:]))


class Pretrainer(_Model):
    """Encoder and decoder: from the visible tubelets to the pixels of the masked ones."""

    needs = "decoder.head.weight"
    positions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = VideoMAE(config)
        self.encoder_to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        table = sinusoids(config.tokens, config.decoder_width)
        self.register_buffer("positions", table, persistent=False)
        self.decoder = Decoder(config)
        self.decoder.apply(_initialise)
        # The first answer is each tubelet's mean colour. Where targets are small (`Config.floor`) a
        # random answer's gradients are so large that Adam takes a hundred steps to forget them.
        nn.init.zeros_(self.decoder.head.weight)
        _initialise(self.encoder_to_decoder)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def targets(self, clip: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be predicted of the tubelets (B, M): values (B, M, pixels, 3), and their
        means and spreads (B, M, 1, 3), with which they are pixels in 0..1 again; 0 and 1 where
        `norm_pix` is off."""
        mean, std = levels(clip, self.config.background)
        x = take(clip, index, self.config) * std + mean
        if not self.config.norm_pix:
            return x, x.new_zeros(1), x.new_ones(1)
        centre, spread = x.mean(2, keepdim=True), x.std(2, keepdim=True) + self.config.floor
        return (x - centre) / spread, centre, spread

    def predict(self, clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """-> the masked tubelets' predicted values (B, M, P) and their indices (B, M)."""
        visible, masked = split(mask)
        x = self.encoder_to_decoder(self.encoder.encode(clip, visible))
        hidden = self.mask_token + self.positions[masked].to(x.dtype)
        x = torch.cat([x + self.positions[visible].to(x.dtype), hidden], dim=1)
        return self.decoder(x, masked.shape[1]), masked

    def forward(self, clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """float (B, T, 3, H, W), bool (B, N) -> the mean squared error on the masked tubelets
        alone (the paper's equation 2), and what was predicted (B, M, P)."""
        predicted, masked = self.predict(clip, mask)
        with torch.no_grad():
            target = self.targets(clip, masked)[0].flatten(2)
        return F.mse_loss(predicted.to(target.dtype), target), predicted

    @torch.no_grad()
    def reconstruct(self, clip: Tensor, mask: Tensor) -> Tensor:
        """The clip with its masked tubelets as predicted: uint8 (B, T, H, W, 3), frames to look
        at. With `norm_pix` their true mean and spread are given back to them, as in the paper's
        pictures: only what is within a tubelet is predicted."""
        predicted, masked = self.predict(clip, mask)
        _, centre, spread = self.targets(clip, masked)
        mean, std = levels(clip, self.config.background)
        pixels = predicted.to(clip.dtype).unflatten(2, (-1, 3)) * spread + centre
        filled = put(clip, masked, (pixels - mean) / std, self.config).movedim(2, -1)
        return ((filled * std + mean) * 255).round().clamp(0, 255).byte()


class Classifier(_Model):
    """Encoder, pooled tokens, one linear layer: float (B, T, 3, H, W) -> logits (B, K), one for
    each of the config's `classes`."""

    needs = "head.weight"

    def __init__(self, config: Config, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.encoder = VideoMAE(config, drop_path)
        self.fc_norm = nn.LayerNorm(config.width) if config.mean_pool else None
        self.head = nn.Linear(config.width, len(config.classes))

    @classmethod
    def of(
        cls, encoder: VideoMAE | Pretrainer, classes: Sequence[str], drop_path: float = 0.0
    ) -> Self:
        """A classifier that starts from a copy of a pre-trained encoder; the head is new, and
        takes the tokens' mean."""
        if isinstance(encoder, Pretrainer):
            encoder = encoder.encoder
        config = replace(encoder.config, classes=tuple(classes), mean_pool=True)
        model = cls(config, drop_path)
        state = encoder.state_dict()
        model.encoder.load_state_dict({k: v for k, v in state.items() if k[:5] != "norm."})
        return model

    def forward(self, clip: Tensor) -> Tensor:
        x = self.encoder(clip)
        x = x[:, 0] if self.fc_norm is None else self.fc_norm(x.mean(1))
        return self.head(x)

    def attentions(self, clip: Tensor) -> Tensor:
        """The encoder's: (depth, B, heads, N, N)."""
        return self.encoder.attentions(clip)

    @torch.inference_mode()
    def multi_view(self, views: Tensor, batch: int = 4) -> Tensor:
        """One film's clips and crops uint8 (V, T, 3, H, W), as `sampling.views` cuts them -> their
        logits (V, K). The film's probabilities are the mean of their softmax (the authors test so,
        with 5 clips x 3 crops). At most `batch` views are in work at once."""
        device, background = self.head.weight.device, self.config.background
        parts = (normalise(v.to(device), background) for v in views.split(batch))
        return torch.cat([self(x).float() for x in parts])


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser. The head learns at `lr`, block i of L at lr x layer_decay^(L - i),
    the tubelets' embedding at lr x layer_decay^(L + 1): what is near the pixels is kept (Clark et
    al., ELECTRA, ICLR 2020; BEiT). Biases, norms and the mask token are not decayed. Each group's
    own rate is also its `peak`, for a schedule."""
    depth = len(model.get_submodule("encoder.blocks"))  # type: ignore[arg-type]
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        layer = depth + 1
        if name.startswith("encoder.patch_embed."):
            layer = 0
        elif name.startswith("encoder.blocks."):
            layer = int(name.split(".")[2]) + 1
        decayed = parameter.ndim > 1 and name != "mask_token"
        rate = lr * layer_decay ** (depth + 1 - layer)
        new = {"params": [], "lr": rate, "peak": rate, "weight_decay": weight_decay * decayed}
        groups.setdefault((layer, decayed), new)["params"].append(parameter)
    return list(groups.values())
