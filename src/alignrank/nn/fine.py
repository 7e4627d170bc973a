"""FINE: where two levels of a pyramid meet, the finer map is modulated by what it has in common with the coarser one.

Source: Lee, Lee & Kang, Context-Guided Semantic Alignment for Feature Fusion Networks (equations 4 to 9): both maps are
pooled to tokens of the same grid, the fine tokens attend to the coarse ones, and the result, spread over the cells that
each token stands for, multiplies the fine map. The paper's own tables count more than its equations have, in two ways:
docs/fine.md. Variants:

- `paper`: attention, then a feed-forward of twice the width, each normalised and added (post-norm). Most tables.
- `equations`: attention alone.
- `prerelease`: as a file that circulates: positions added to tokens, linear attention with l1-normalised queries and
  keys, a feed-forward of four times the width, bilinear spreading, a product without the map itself. Other tables.

Shape letters: B images, C channels, N tokens of the fine map, M of the coarse one, G heads, W windows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, normalize, pad, scaled_dot_product_attention

from alignrank.boxes import at_least_float32, outside_autocast
from alignrank.nn.conv import ConvNormAct

Variant = Literal["paper", "equations", "prerelease"]
Pooling = Literal["avg", "max", "depthwise"]
Attention = Literal["aats", "vanilla", "window", "area", "linear"]
Modulation = Literal["none", "direct", "residual"]
Spreading = Literal["nearest", "bilinear"]

# Hidden width of the feed-forward, in widths.
FEED_FORWARD: dict[Variant, int] = {"paper": 2, "equations": 0, "prerelease": 4}
# Longest side of a window of the coarse map (Swin's), and number of areas from top to bottom (YOLOv12's).
WINDOW, AREAS = 7, 4
TEMPERATURE = 10_000.0


def modulation_of(variant: Variant, modulation: Modulation | None = None) -> Modulation:
    """`modulation`, or the variant's own."""
    return modulation or ("direct" if variant == "prerelease" else "residual")


class Pool(nn.Module):
    """[B,C,H,W] -> [B,C,ceil(H/k),ceil(W/k)]: mean, maximum or a learned sum of each k x k cells; of as many as there
    are at the right and lower border.
    """

    def __init__(self, channels: int, kernel: int, kind: Pooling) -> None:
        super().__init__()
        self.kernel, self.kind = kernel, kind
        self.depthwise: nn.Conv2d | None = None
        if kind == "depthwise" and kernel > 1:
            self.depthwise = nn.Conv2d(channels, channels, kernel, kernel, groups=channels, bias=False)
            nn.init.constant_(self.depthwise.weight, 1 / kernel**2)  # begins as the mean

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == 1:
            return x
        height, width = x.shape[-2:]
        ragged = bool(height % self.kernel != 0 or width % self.kernel != 0)  # a tensor, where it is traced
        if self.depthwise is not None:
            filled = pad(x, (0, -width % self.kernel, 0, -height % self.kernel)) if ragged else x
            weighed: Tensor = self.depthwise(filled)
            return weighed
        if self.kind == "max":
            return max_pool2d(x, self.kernel, ceil_mode=ragged)
        return avg_pool2d(x, self.kernel, ceil_mode=ragged, count_include_pad=False)


class HeadAttention(nn.Module):
    """Queries [B,N,C] of a grid, keys and values [B,M,C] of another -> [B,N,C], head by head (equation 6).

    Heads have `head_dim` channels, or as many as divide C. linear: queries and keys are normalised to a sum of
    magnitudes of 1 over the tokens, and each head's output to a mean square of 1 (SiMA). windows: the token at a place
    attends to the window around it (7 x 7 coarse tokens) or to its area (a quarter of the height).
    """

    def __init__(
        self, channels: int, head_dim: int, *, linear: bool, windows: Literal["window", "area"] | None = None
    ) -> None:
        super().__init__()
        self.head_dim = next(size for size in range(min(head_dim, channels), 0, -1) if channels % size == 0)
        self.windows = windows
        self.head_norm = nn.RMSNorm(self.head_dim) if linear else None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, low_grid: tuple[int, int], high_grid: tuple[int, int]
    ) -> Tensor:
        if self.windows is not None:
            return self._in_windows(query, key, value, low_grid, high_grid)
        return self._joined(self._attend(self._heads(query), self._heads(key), self._heads(value)))

    def _heads(self, tokens: Tensor) -> Tensor:
        heads: Tensor = tokens.unflatten(-1, (-1, self.head_dim))
        return heads.transpose(-3, -2)  # [...,N,C] -> [...,G,N,d]

    def _joined(self, heads: Tensor) -> Tensor:
        return heads.transpose(-3, -2).flatten(-2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.head_norm is None:
            return scaled_dot_product_attention(query, key, value, mask)
        dtype = query.dtype
        with outside_autocast(query):  # what sums to 1 over thousands of tokens is too small for half precision
            query, key, value = (at_least_float32(tokens) for tokens in (query, key, value))
            query, key = (normalize(tokens, p=1.0, dim=-2, eps=1e-6) for tokens in (query, key))
            summed = query @ (key.transpose(-2, -1) @ value)
        normed: Tensor = self.head_norm(summed.to(self.head_norm.weight.dtype))
        return normed.to(dtype)

    def _in_windows(
        self, query: Tensor, key: Tensor, value: Tensor, low_grid: tuple[int, int], high_grid: tuple[int, int]
    ) -> Tensor:
        counts = _window_counts(high_grid, self.windows)
        batch, real = key.shape[0], torch.ones_like(key[..., :1], dtype=torch.bool)
        mask = _windowed(real, high_grid, counts).flatten(0, 1).transpose(-2, -1)[:, None]  # [BW,1,1,m]: no filling
        query, key, value = (
            # Windows as images: ONNX's attention takes four dimensions, [BW,G,n,d].
            self._heads(_windowed(tokens, grid, counts).flatten(0, 1))
            for tokens, grid in ((query, low_grid), (key, high_grid), (value, high_grid))
        )
        attended = self._joined(self._attend(query, key, value, mask))
        return _unwindowed(attended.unflatten(0, (batch, -1)), low_grid, counts)


def _window_counts(grid: tuple[int, int], kind: Literal["window", "area"] | None) -> tuple[int, int]:
    """Windows down and across, none of them without cells."""
    if kind == "window":
        return -(-grid[0] // WINDOW), -(-grid[1] // WINDOW)
    side = -(-grid[0] // AREAS)
    return -(-grid[0] // side), 1


def _windowed(tokens: Tensor, grid: tuple[int, int], counts: tuple[int, int]) -> Tensor:
    """[B,N,C] of a grid -> [B,W,n,C], filled with zeros on the right and below."""
    (height, width), (down, across) = grid, counts
    tall, wide = -(-height // down), -(-width // across)
    filled = pad(tokens.unflatten(1, grid), (0, 0, 0, across * wide - width, 0, down * tall - height))
    split: Tensor = filled.unflatten(2, (across, wide)).unflatten(1, (down, tall))
    return split.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _unwindowed(windows: Tensor, grid: tuple[int, int], counts: tuple[int, int]) -> Tensor:
    (height, width), (down, across) = grid, counts
    tall, wide = -(-height // down), -(-width // across)
    split: Tensor = windows.unflatten(2, (tall, wide)).unflatten(1, counts)  # [B,down,across,tall,wide,C]
    cells = split.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return cells[:, :height, :width].flatten(1, 2)


class FINE(nn.Module):
    """low [B,C,h,w], high [B,D,H,W] -> low, modulated [B,C,h,w]; D is C, or `high_channels`, which a 1x1 convolution
    takes to C. Sizes are free; the maps show the same picture.

    Tokens are cells of low pooled by `ratio * pool` and of high pooled by `pool`: `ratio` is how much coarser high is.
    pool: 1 where strides 32 and 16 meet, 2 for 16 and 8 (a token then stands for 32 px in both).
    attention: `aats` is the paper's; what it compares with takes every cell as a token.
    modulation: `residual` low + M low, `direct` M low, `none` low + M; and `upsample`, how M is spread over its cells.
    Empty: the variant's own (prerelease: direct, bilinear; else residual, nearest).
    zero_init: M is multiplied by a scale of each channel, 0 at first: a trained host stays what it was, bit for bit.

    Without `zero_init`, M begins as the fine tokens themselves in `paper` and `prerelease`, and small in `equations`.
    Raises ValueError for zero_init with a direct product, which would begin as nothing.
    """

    __constants__ = ("positions",)  # TorchScript then leaves out the branch, which it cannot compile

    def __init__(
        self,
        channels: int,
        pool: int,
        *,
        ratio: int = 2,
        head_dim: int = 16,
        variant: Variant = "paper",
        pooling: Pooling = "avg",
        attention: Attention = "aats",
        modulation: Modulation | None = None,
        upsample: Spreading | None = None,
        high_channels: int | None = None,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        early = variant == "prerelease"
        self.modulation = modulation_of(variant, modulation)
        self.upsample: Spreading = upsample or ("bilinear" if early else "nearest")
        self.positions = early
        if zero_init and self.modulation == "direct":
            raise ValueError("zero_init needs a modulation that keeps the map: residual or none")
        self.factor = ratio * pool if attention == "aats" else 1
        self.pool_low = Pool(channels, self.factor, pooling)
        projected = high_channels is not None and high_channels != channels
        # A 1x1 convolution commutes with the mean: after pooling it has a quarter of the work. Tables that fit the
        # `prerelease` variant count it before.
        self.project_first = projected and early
        pooled = channels if self.project_first or not high_channels else high_channels
        self.pool_high = Pool(pooled, pool if attention == "aats" else 1, pooling)
        self.project = ConvNormAct(high_channels, channels, act=False) if high_channels and projected else None
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.value, self.output = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.attention = HeadAttention(
            channels,
            head_dim,
            linear=early or attention == "linear",
            windows=attention if attention in ("window", "area") else None,
        )
        hidden = FEED_FORWARD[variant] * channels
        self.norm1 = nn.LayerNorm(channels) if hidden else None
        self.norm2 = nn.LayerNorm(channels) if hidden else None
        self.ffn = (
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)) if hidden else None
        )
        self.scale = nn.Parameter(torch.zeros(channels)) if zero_init else None

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        spread = self.spread(self.context(low, high), low)
        if self.modulation == "none":
            return low + spread
        return low * spread if self.modulation == "direct" else low * spread + low

    def context(self, low: Tensor, high: Tensor) -> Tensor:
        """[B,C,h',w'], one vector for each token of low (the paper's M before it is spread)."""
        if self.project is not None and self.project_first:
            high = self.project(high)
        low, high = self.pool_low(low), self.pool_high(high)
        if self.project is not None and not self.project_first:
            high = self.project(high)
        low_grid, high_grid = (low.shape[-2], low.shape[-1]), (high.shape[-2], high.shape[-1])
        low_tokens, high_tokens = low.flatten(2).transpose(1, 2), high.flatten(2).transpose(1, 2)
        if self.positions:
            low_tokens = low_tokens + sine_positions(low_grid, low_tokens)
            high_tokens = high_tokens + sine_positions(high_grid, high_tokens)
        query, key, value = self.query(low_tokens), self.key(high_tokens), self.value(high_tokens)
        tokens: Tensor = self.output(self.attention(query, key, value, low_grid, high_grid))
        if self.ffn is not None:
            assert self.norm1 is not None
            assert self.norm2 is not None
            tokens = low_tokens + self.norm1(tokens)
            tokens = tokens + self.norm2(self.ffn(tokens))
        if self.scale is not None:
            tokens = tokens * self.scale
        context: Tensor = tokens.transpose(1, 2).unflatten(2, low_grid)
        return context

    def spread(self, context: Tensor, low: Tensor) -> Tensor:
        """[B,C,h',w'] -> [B,C,h,w]: each token's vector over the cells that it was pooled from."""
        if self.factor == 1:
            return context
        spread = interpolate(
            context,
            scale_factor=float(self.factor),
            mode=self.upsample,
            align_corners=None if self.upsample == "nearest" else False,
        )
        if spread.shape[-2:] == low.shape[-2:]:
            return spread
        return spread[..., : low.shape[-2], : low.shape[-1]]


def sine_positions(grid: tuple[int, int], tokens: Tensor) -> Tensor:
    """[N,C]: sines and cosines of column and row at C/4 frequencies each (RT-DETR), zeros where 4 does not divide C."""
    height, width = grid
    channels = tokens.shape[-1]
    count = channels // 4
    frequencies = TEMPERATURE ** (-torch.arange(count, device=tokens.device) / max(count, 1))
    columns = torch.arange(width, device=tokens.device)[:, None] * frequencies
    rows = torch.arange(height, device=tokens.device)[:, None] * frequencies
    across = torch.cat([columns.sin(), columns.cos()], -1).expand(height, width, -1)
    down = torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(height, width, -1)
    return pad(torch.cat([across, down], -1).flatten(0, 1), (0, channels - 4 * count)).to(tokens.dtype)
