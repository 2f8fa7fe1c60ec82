"""A language model of LSTM layers, regularised as in AWD-LSTM."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.networks._sizes import Rates, checked


class LSTMOutput(NamedTuple):
    """Logits, and the activations that penalties need.

    Attributes:
        logits: Logits of the next word at each position, (B, T, vocabulary).
        states: The hidden states h of the last layer, (B, T, units). Temporal activation
            regularisation penalises mean((h_t − h_{t+1})²).
        dropped: The same states after the output dropout. Activation regularisation penalises the
            mean of their squares.
    """

    logits: Tensor
    states: Tensor
    dropped: Tensor


class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM layers, and the embedding again as the output layer (Merity et al., 2018).

    Dropout of input, hidden states and output is locked: all steps of a sequence share one mask
    (Gal & Ghahramani, 2016). The dropout of the embedding drops all occurrences of a word in a
    sequence. DropConnect drops hidden-to-hidden weights; all examples of a batch share the mask.

    Args:
        rates: Dropout rates, in the order of :attr:`RATES`.
        vocabulary: Number of words.
        units: Units of each layer and of the embedding: 650 for Penn Treebank.
        layers: Number of LSTM layers.
    """

    RATES: ClassVar = (
        "embedding_dropout",
        "input_dropout",
        "hidden_dropout",
        "output_dropout",
        "weight_dropout",
    )

    def __init__(
        self, rates: Rates, *, vocabulary: int = 10_000, units: int = 650, layers: int = 2
    ) -> None:
        super().__init__()
        word_rate, input_rate, hidden_rate, output_rate, weight_rate = checked(rates, self.RATES)
        self.word_rate = word_rate
        self.embedding = nn.Embedding(vocabulary, units)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layers = nn.ModuleList(_DropConnectLSTM(units, weight_rate) for _ in range(layers))
        self.before = nn.ModuleList(
            _LockedDropout(hidden_rate if layer else input_rate) for layer in range(layers)
        )
        self.after = _LockedDropout(output_rate)
        self.output = nn.Linear(units, vocabulary)
        self.output.weight = self.embedding.weight

    def forward(self, words: Tensor) -> LSTMOutput:
        """Return logits and activations of sequences of words, (B, T)."""
        states = self.embedding(words)
        if self.training:
            kept = F.dropout(states.new_ones(len(words), self.output.out_features), self.word_rate)
            states = states * kept.gather(1, words)[:, :, None]
        for layer, dropout in zip(self.layers, self.before, strict=True):
            states = layer(dropout(states))
        dropped = self.after(states)
        return LSTMOutput(self.output(dropped), states, dropped)


class _LockedDropout(nn.Module):
    """Dropout of (B, T, units) with one mask for all of T."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:, :1]), self.rate, self.training)


class _DropConnectLSTM(nn.LSTM):
    """One LSTM layer from zero states, with dropout of its hidden-to-hidden weights."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, units: int, rate: float) -> None:
        super().__init__(units, units, batch_first=True)
        self.rate = rate

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        zeros = input.new_zeros(1, len(input), self.hidden_size)
        weights = [
            self.weight_ih_l0,
            F.dropout(self.weight_hh_l0, self.rate, self.training),
            self.bias_ih_l0,
            self.bias_hh_l0,
        ]
        has_biases, layers, dropout, bidirectional, batch_first = True, 1, 0.0, False, True
        states, _, _ = torch.lstm(
            input,
            (zeros, zeros),
            weights,
            has_biases,
            layers,
            dropout,
            self.training,
            bidirectional,
            batch_first,
        )
        return states
