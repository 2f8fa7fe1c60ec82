"""A Transformer encoder over tokens: a classifier, or a language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comparisons.networks._sizes import Rates, checked


class Transformer(nn.Module):
    """Pre-norm blocks of self-attention and an MLP (Vaswani et al., 2017; Xiong et al., 2020).

    Args:
        rates: Dropout rates, in the order of :meth:`rate_names`: of the embedded tokens, then in
            each block of the attention weights, and of the outputs of attention and MLP.
        vocabulary: Number of tokens.
        outputs: Number of classes; ``None`` makes a language model, in which each position sees
            only earlier positions.
        length: The highest number of tokens in a sequence.
        units: Units of the embedding; a multiple of ``heads``.
        heads: Heads of the attention.
        blocks: Number of blocks.
    """

    def __init__(
        self,
        rates: Rates,
        *,
        vocabulary: int,
        outputs: int | None = None,
        length: int = 128,
        units: int = 128,
        heads: int = 4,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        rates = checked(rates, self.rate_names(blocks))
        self.is_causal = outputs is None
        self.tokens = nn.Embedding(vocabulary, units)
        self.positions = nn.Embedding(length, units)
        self.dropout = nn.Dropout(rates[0])
        self.blocks = nn.ModuleList(
            _Block(units, heads, attention=rates[i], residual=rates[i + 1])
            for i in range(1, len(rates), 2)
        )
        self.norm = nn.LayerNorm(units)
        self.output = nn.Linear(units, vocabulary if outputs is None else outputs)

    @staticmethod
    def rate_names(blocks: int = 2) -> tuple[str, ...]:
        """Return the names of the dropout rates in the order of the argument ``rates``."""
        in_blocks = (
            f"{part}_dropout_{block}"
            for block in range(1, blocks + 1)
            for part in ("attention", "residual")
        )
        return "input_dropout", *in_blocks

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of sequences of tokens, (B, T).

        Returns:
            Shape (B, outputs), or (B, T, vocabulary) for a language model.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        mask = None
        if self.is_causal:
            mask = positions[None, :] > positions[:, None]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        logits: Tensor = self.output(x if self.is_causal else x.mean(1))
        return logits


class _Block(nn.Module):
    """y = x + dropout(attention(norm(x))); then y + dropout(mlp(norm(y)))."""

    def __init__(self, units: int, heads: int, *, attention: float, residual: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(units)
        self.attention = nn.MultiheadAttention(units, heads, dropout=attention, batch_first=True)
        self.norm_2 = nn.LayerNorm(units)
        self.mlp = nn.Sequential(
            nn.Linear(units, 4 * units), nn.GELU(), nn.Linear(4 * units, units)
        )
        self.dropout = nn.Dropout(residual)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm_1(x)
        y, _ = self.attention(
            y, y, y, attn_mask=mask, is_causal=mask is not None, need_weights=False
        )
        x = x + self.dropout(y)
        z: Tensor = x + self.dropout(self.mlp(self.norm_2(x)))
        return z
