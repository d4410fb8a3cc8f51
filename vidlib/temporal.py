"""The Transformer over frame features, after VideoMAE's encoder (Tong et al., NeurIPS 2022), and
its pre-training without labels: frames are hidden, and their features predicted.

A frame's feature is a token. B windows, T frames each, D the encoder's feature size, C the
token width, K actions.
"""

import math

import torch
from torch import Tensor, nn


def center(features: Tensor, valid: Tensor, seen: Tensor | None = None) -> Tensor:
    """Subtract each window's mean feature over its valid frames, or over those `seen` (B, T) alone:
    (B, T, D), (B, T) -> (B, T, D).

    The mean holds what stands still (wall, clothes, build); the rest is what moves.
    """
    keep = valid.unsqueeze(-1).to(features.dtype)
    counted = keep if seen is None else seen.unsqueeze(-1).to(features.dtype)
    mean = (features * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
    return (features - mean) * keep


def sincos(length: int, width: int) -> Tensor:
    """Fixed positions (Vaswani et al. 2017, section 3.5): (length, width)."""
    angle = torch.arange(length)[:, None] * torch.exp(
        torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class Block(nn.Module):
    """Pre-norm attention and MLP (Xiong et al., ICML 2020): (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, N, C), padded bool (B, N) -> tokens, attention (B, N queries, N keys)."""
        y = self.norm1(x)
        y, weights = self.attention(y, y, y, key_padding_mask=padded, need_weights=True)
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(self.norm2(x))), weights


class TemporalTransformer(nn.Module):
    """Frame features (B, T, D) and valid (B, T) -> logits (B, K).

    positions: "sincos" (fixed) or "learned". pool: "mean" over valid frames, or "cls", a token of
    its own. `feature_std` scales the centred features to about unit size; `fit_scale` sets it from
    training features and it is saved with the weights. So is `temperature`, by which logits are
    divided (`training.calibrate`); it is 1 while training.
    """

    feature_std: Tensor
    temperature: Tensor
    positions: Tensor

    def __init__(
        self,
        dim: int,
        actions: int,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        window: int = 24,
        positions: str = "sincos",
        pool: str = "mean",
        center: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if positions not in ("sincos", "learned") or pool not in ("mean", "cls"):
            raise ValueError("positions: 'sincos' or 'learned'; pool: 'mean' or 'cls'")
        self.spec = {
            "dim": dim, "actions": actions, "width": width, "depth": depth, "heads": heads,
            "window": window, "positions": positions, "pool": pool, "center": center,
            "dropout": dropout,
        }  # fmt: skip
        self.pool, self.center = pool, center
        self.register_buffer("feature_std", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.embed = nn.Linear(dim, width)
        table = sincos(window, width)
        if positions == "sincos":
            self.register_buffer("positions", table, persistent=False)
        else:
            self.positions = nn.Parameter(torch.randn_like(table) * 0.02)
        self.cls = nn.Parameter(torch.zeros(1, 1, width)) if pool == "cls" else None
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, actions)

    def prepare(self, features: Tensor, valid: Tensor, seen: Tensor | None = None) -> Tensor:
        """The features as the first layer sees them: centred (if `center`) and scaled."""
        if self.center:
            features = center(features, valid, seen)
        return features / self.feature_std

    @torch.no_grad()
    def fit_scale(self, features: Tensor, valid: Tensor) -> None:
        """Set `feature_std` from training windows (B, T, D)."""
        self.feature_std.fill_(1.0)
        self.feature_std.copy_(self.prepare(features, valid)[valid].std().clamp(min=1e-6))

    def layers(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded frames (B, T, C) -> the last layer's tokens (B, N, C) and attention (B, N, N);
        N is T, or T + 1 with the token of its own first."""
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        padded = ~valid
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
            padded = torch.cat([padded.new_zeros(len(x), 1), padded], dim=1)
        weights = x.new_zeros(())
        for block in self.blocks:
            x, weights = block(x, padded)
        return self.norm(x), weights

    def tokens(self, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """-> the pooled token (B, C) and the last layer's attention to each frame (B, T)."""
        x, weights = self.layers(self.embed(self.prepare(features, valid)), valid)
        if self.cls is not None:
            return x[:, 0], weights[:, 0, 1:]
        keep = valid.unsqueeze(-1).to(x.dtype)
        count = keep.sum(1).clamp(min=1)
        return (x * keep).sum(1) / count, (weights * keep).sum(1) / count

    def logits(self, token: Tensor) -> Tensor:
        """Pooled tokens (B, C) -> logits (B, K), whose softmax is calibrated."""
        return self.head(token) / self.temperature

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        return self.logits(self.tokens(features, valid)[0])

    def attention(self, features: Tensor, valid: Tensor) -> Tensor:
        """How much the last layer looks at each frame, averaged over heads and (with mean pooling)
        over the frames that look: (B, T), summing to 1, 0 at padding."""
        weights = self.tokens(features, valid)[1].float() * valid
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)


def hide(valid: Tensor, share: float, run: int, rng: torch.Generator) -> Tensor:
    """Which frames are hidden, bool (B, T): of each window's valid frames (B, T) the `share`, in
    runs of up to `run` frames at random places; one is always seen, and one hidden if there are
    two."""
    count = valid.sum(1, keepdim=True)
    places = torch.rand(len(valid), -(-valid.shape[1] // run), generator=rng)
    order = places.repeat_interleave(run, 1)[:, : valid.shape[1]]
    order = order + 1e-6 * torch.arange(valid.shape[1])  # of equal ones the earlier first
    rank = order.masked_fill(~valid, torch.inf).argsort(1).argsort(1)
    most = (share * count).round().clamp(min=1).minimum(count - 1)
    return (rank < most) & valid


class MaskedFeatures(nn.Module):
    """Pre-training of a `TemporalTransformer`: what features had the frames that it was not shown?

    A hidden frame's token is replaced by a learned one, as in BERT (Devlin et al., NAACL 2019) and
    SimMIM (Xie et al., CVPR 2022); the head is one linear layer. Hidden frames are left out of the
    mean that is subtracted, or it would tell of them.
    """

    def __init__(self, model: TemporalTransformer) -> None:
        super().__init__()
        width, dim = model.spec["width"], model.spec["dim"]
        self.model = model
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.head = nn.Linear(width, dim)

    def forward(self, features: Tensor, valid: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, T, D), valid and hidden (B, T) -> predicted and true features of the hidden
        frames, (M, D) each, as `TemporalTransformer.prepare` scales them."""
        true = self.model.prepare(features, valid, valid & ~hidden)
        x = torch.where(hidden.unsqueeze(-1), self.token, self.model.embed(true))
        x = self.model.layers(x, valid)[0][:, -features.shape[1] :]
        return self.head(x[hidden]), true[hidden]
