"""The arguments of ``torch.lstm``, ``torch.gru`` and the like, padded or packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """The parameters of one direction of a layer, in torch's order."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


_OPTIONS = ("params", "has_biases", "num_layers", "dropout", "train", "bidirectional")
_PADDED = ("input", "hx", *_OPTIONS, "batch_first")
_PACKED = ("data", "batch_sizes", "hx", *_OPTIONS)


@dataclass(frozen=True)
class RecurrentCall:
    """The arguments by name; ``batch_sizes`` is ``None`` for padded sequences."""

    input: Tensor
    batch_sizes: Tensor | None
    hx: Any
    params: Sequence[Tensor]
    has_biases: bool
    num_layers: int
    dropout: Any
    train: bool
    bidirectional: bool
    batch_first: bool = False

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> RecurrentCall:
        """Return the arguments of either form of the torch function."""
        # The parameters come third, or fourth behind the sizes of a packed sequence.
        is_packed = (
            "batch_sizes" in kwargs
            or ("params" in kwargs and len(args) > 2)
            or (len(args) > 3 and isinstance(args[3], (tuple, list)))
        )
        names = _PACKED if is_packed else _PADDED
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        if is_packed:
            named["input"] = named.pop("data")
        return cls(**{"batch_sizes": None, **named})

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The initial h of all layers and directions, and the initial c of an LSTM."""
        return (self.hx,) if isinstance(self.hx, Tensor) else tuple(self.hx)

    @property
    def sequence_axis(self) -> int:
        """The axis of the input along which the sequences lie; that of the rows if packed."""
        return 0 if self.batch_sizes is not None or self.batch_first else 1

    @property
    def directions(self) -> int:
        """2 for a bidirectional network, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def sizes(self) -> list[int]:
        """The number of sequences in each step."""
        if self.batch_sizes is not None:
            return self.batch_sizes.tolist()
        length = self.input.shape[1 - self.sequence_axis]
        return [self.input.shape[self.sequence_axis]] * length

    def weights(self, layer: int, direction: int) -> Weights:
        """Return the parameters of one direction of a layer."""
        count = len(self.params) // (self.num_layers * self.directions)
        start = (layer * self.directions + direction) * count
        weights: list[Any] = list(self.params[start : start + count])
        if not self.has_biases:
            weights[2:2] = [None, None]
        return Weights(*weights)
