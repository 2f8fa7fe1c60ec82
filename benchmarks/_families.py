"""Families of models that public libraries have, written in plain torch, in two sizes each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bert(nn.Module):
    """An encoder with learned positions and layer norms behind its sums; classifies sequences."""

    def __init__(self, rates: Sequence[float], width: int, layers: int, words: int) -> None:
        super().__init__()
        hidden, attention = rates
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(512, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(hidden)
        self.blocks = nn.ModuleList(_EncoderBlock(width, hidden, attention) for _ in range(layers))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.norm(self.words(tokens) + self.places(places)))
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(self.pooler(x[:, 0]).tanh()))


class _EncoderBlock(nn.Module):
    def __init__(self, width: int, hidden: float, attention: float) -> None:
        super().__init__()
        self.attend = _Attention(width, heads=max(2, width // 64), dropout=attention)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.dropout(self.attend(x)))
        return self.norms[1](x + self.dropout(self.down(F.gelu(self.up(x)))))


class _Attention(nn.Module):
    """Attention whose projections are separate layers, with rotary positions if asked for."""

    def __init__(
        self, width: int, heads: int, dropout: float, *, is_causal: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.is_causal, self.rate = heads, is_causal, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=bias) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.is_causal:
            q, k = _rotated(q), _rotated(k)
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=self.is_causal)
        return self.out(y.transpose(1, 2).flatten(2))


def _rotated(x: Tensor) -> Tensor:
    """Rotate pairs of features by angles that grow with the place (Su et al., 2021)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    rates = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angles = torch.arange(length, device=x.device)[:, None] * rates
    cosine, sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class Llama(nn.Module):
    """A decoder with rotary positions, RMS norms and gated units; predicts the next token."""

    def __init__(self, rates: Sequence[float], width: int, layers: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(_DecoderBlock(width, rates[0]) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _DecoderBlock(nn.Module):
    def __init__(self, width: int, attention: float) -> None:
        super().__init__()
        heads = max(2, width // 64)
        self.attend = _Attention(width, heads, attention, is_causal=True, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        inner = 8 * width // 3
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norms[0](x))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class ConvNeXt(nn.Module):
    """Depthwise convolutions, then a narrow network on the channels (Liu et al., 2022)."""

    def __init__(self, rates: Sequence[float], widths: Sequence[int], depth: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 2, stride=2)]
        for before, width in pairwise((widths[0], *widths)):
            if before != width:
                stages.append(nn.Conv2d(before, width, 2, stride=2))
            stages += [_ConvBlock(width) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        self.norm, self.dropout = nn.LayerNorm(widths[-1]), nn.Dropout(rates[0])
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(self.stages(x).mean((2, 3)))))


class _ConvBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Swin(nn.Module):
    """Attention in windows, shifted in every other block (Liu et al., 2021)."""

    def __init__(self, rates: Sequence[float], width: int, depth: int, window: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.first = _stage(width, depth, window, rates[0])
        self.merge = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.second = _stage(2 * width, depth, window, rates[0])
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).permute(0, 2, 3, 1))
        x = self.second(self.merge(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.head(self.norm(x).mean((1, 2)))


def _stage(width: int, depth: int, window: int, rate: float) -> nn.Sequential:
    shifts = [window // 2 * (index % 2) for index in range(depth)]
    return nn.Sequential(*(_SwinBlock(width, window, shift, rate) for shift in shifts))


class _SwinBlock(nn.Module):
    def __init__(self, width: int, window: int, shift: int, rate: float) -> None:
        super().__init__()
        self.window, self.shift, self.heads = window, shift, max(2, width // 32)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.places = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))
        rows, columns = torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")
        at = torch.stack([rows.flatten(), columns.flatten()])
        offset = at[:, :, None] - at[:, None] + window - 1
        self.register_buffer("offset", offset[0] * (2 * window - 1) + offset[1])
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self._attended(self.norms[0](x)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norms[1](x)))))

    def _attended(self, x: Tensor) -> Tensor:
        examples, height, width, channels = x.shape
        side, down, across = self.window, height // self.window, width // self.window
        x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = x.view(examples, down, side, across, side, channels).transpose(2, 3)
        qkv = self.qkv(windows.reshape(-1, side * side, channels))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * q.shape[-1] ** -0.5 + self.places[self.offset].permute(2, 0, 1)
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = y.view(examples, down, across, side, side, channels).transpose(2, 3)
        return y.reshape(examples, height, width, channels).roll((self.shift,) * 2, (1, 2))


class UNet(nn.Module):
    """A U-shaped network of convolutions with instance norms; classifies pixels."""

    def __init__(self, rates: Sequence[float], widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b, rates[0]) for a, b in pairwise((3, *widths)))
        back = widths[::-1]
        self.lift = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairwise(back))
        self.up = nn.ModuleList(_double(2 * b, b, rates[0]) for b in back[1:])
        self.head = nn.Conv2d(widths[0], 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for lift, block, other in zip(self.lift, self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([lift(x), other], dim=1))
        return self.head(x)


def _double(inputs: int, outputs: int, rate: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.LeakyReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Dropout2d(rate))
