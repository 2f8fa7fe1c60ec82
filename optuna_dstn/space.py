"""The tuned hyperparameters as one point λ of an unconstrained space, and its perturbation ε.

A step on λ can have any size, but a dropout rate must stay in its range. So the h hyperparameters
are numbers λ ∈ R^h, and :class:`Space` maps each of them to its range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import functools
import math

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_dstn.hyperparameter._option_probability import columns_of_choices, parameter_names


# A start value on a bound of its range would need an infinite λ, so it moves inwards by this
# fraction of the range.
_EDGE = 1e-2

# Beyond this |λ| the value is within 0.7 % of the range from its end. The sigmoid is flat there, so
# that steps farther out change nothing, and as many steps would be needed to come back.
_LARGEST_RAW = 5.0


class Space:
    """The point λ ∈ R^h, its map to the ranges of the hyperparameters, and the scale σ of ε.

    For a range [a, b] the map is the stretched sigmoid

        value = a + (b − a)·sigmoid(λ).

    For ``log=True`` it maps to the logarithm of the value. For a range with a step, and for
    integers, [a, b] is wider by half a step at either end, and the value is rounded to the grid.
    The probabilities of the options of a choice are the softmax of their λ.

    Args:
        distributions: The distributions of the h tuned hyperparameters by name, each a float or int
            distribution with low < high. All options of a choice are among them.
        start: The start value of each hyperparameter, in its range.
        scale: The start value of σ, the same for all, in unconstrained space; > 0.
        like: A tensor of the model. λ is on its device and of its dtype, but at least in single
            precision: half precision is too coarse for small steps.

    Attributes:
        names: The h names, in the order of the columns of λ.
        parameters: The names of the trial's parameters; a choice is a single one.
        raw: λ, shape (h,), requires grad.
        raw_scale: ρ, shape (h,), requires grad; σ = softplus(ρ).
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        start: Mapping[str, float],
        *,
        scale: float,
        like: Tensor,
    ) -> None:
        self._model_place = like.device, like.dtype
        like = like.to(torch.promote_types(like.dtype, torch.float32))
        self._ranges = {name: Range.of(d) for name, d in distributions.items()}
        self.names = tuple(self._ranges)
        self.parameters = parameter_names(distributions)
        self._index = {name: column for column, name in enumerate(self.names)}
        ranges = self._ranges.values()

        def vector(numbers: Iterable[float]) -> Tensor:
            return torch.tensor(list(numbers), dtype=like.dtype, device=like.device)

        self._low = vector(span.low for span in ranges)
        self._high = vector(span.high for span in ranges)
        self._step = vector(span.step for span in ranges)
        self._lower = vector(span.lower for span in ranges)
        self._width = vector(span.upper - span.lower for span in ranges)
        self._is_log = torch.tensor([span.log for span in ranges], device=like.device)
        self._any_log = any(span.log for span in ranges)
        self._any_step = any(span.step for span in ranges)
        self._choices = [
            torch.tensor(columns, device=like.device)
            for columns in columns_of_choices(distributions)
        ]

        self.raw = vector(
            span.unconstrain(float(start[name])) for name, span in self._ranges.items()
        )
        for columns in self._choices:
            probabilities = [float(start[self.names[index]]) for index in columns.tolist()]
            self.raw[columns] = vector(probabilities).log()  # softmax(log p) = p
        # The start value and both ends of a grid are within these bounds.
        low = vector(span.unconstrain(span.low) for span in ranges)
        high = vector(span.unconstrain(span.high) for span in ranges)
        farthest = torch.stack([self.raw, low, high]).abs().amax(0)
        self._largest = farthest.clamp(min=_LARGEST_RAW)
        # softplus(log(e^σ − 1)) = σ
        self.raw_scale = torch.full_like(self.raw, math.log(math.expm1(scale)))
        self.raw.requires_grad_()
        self.raw_scale.requires_grad_()

    def __len__(self) -> int:
        return len(self.names)

    def require_same_place(self, model: nn.Module) -> None:
        """Check that the model has the device and the dtype that it had in the first step.

        Raises:
            RuntimeError: If the model was moved or converted after that step.
        """
        device, dtype = self._model_place
        # A single matching parameter is enough: other parts may have another precision.
        if not any(p.device == device and p.dtype == dtype for p in model.parameters()):
            weights = next(model.parameters())
            raise RuntimeError(
                f"The model was converted from {dtype} on {device} to "
                f"{weights.dtype} on {weights.device} after its first training step, but its "
                "response and optimizer were not. Call model.to(...) before making the optimizer "
                "and the Tuner."
            )

    def constrain(self, raw: Tensor) -> Tensor:
        """Map λ to the values of the hyperparameters, each in its range.

        Args:
            raw: λ, shape (..., h).

        Returns:
            The values, shape (..., h).
        """
        values = self._lower + self._width * torch.sigmoid(raw)
        if self._any_log:
            # The exponential of the other columns could overflow, and so could its gradient.
            logs = torch.where(self._is_log, values, 0)
            values = torch.where(self._is_log, logs.exp(), values)
        if self._any_step:
            step = torch.where(self._step > 0, self._step, 1)
            rounded = self._low + step * torch.round((values - self._low) / step)
            values = torch.where(self._step > 0, rounded, values)
        for columns in self._choices:
            probabilities = raw.index_select(-1, columns).softmax(-1)
            values = values.index_copy(-1, columns, probabilities)
        return torch.clamp(values, self._low, self._high)

    @torch.no_grad()
    def leave_flat_ends(self) -> None:
        """Bring λ back to where the map to the ranges is not flat, after a step on λ."""
        self.raw.clamp_(-self._largest, self._largest)

    @property
    def scale(self) -> Tensor:
        """σ = softplus(ρ), shape (h,), in unconstrained space."""
        return F.softplus(self.raw_scale)

    def perturbation(self, examples: int, shared: Collection[str] = ()) -> Tensor:
        """Draw a perturbation ε ~ N(0, diag(σ²)) for each example.

        Args:
            examples: The number of examples.
            shared: The names of hyperparameters for which all examples share one draw.

        Returns:
            ε, shape (examples, h).
        """
        noise = torch.randn(examples, len(self), dtype=self.raw.dtype, device=self.raw.device)
        if shared:
            columns = [self._index[name] for name in shared]
            noise[:, columns] = noise[0, columns]
        return self.scale * noise

    def entropy(self) -> Tensor:
        """Return the entropy H = Σ log(σ√(2πe)) of the perturbation, a scalar."""
        return (self.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()

    def columns(self, values: Tensor, without: Collection[str] = ()) -> NamedColumns:
        """Return the columns of ``values``, shape (B, h), by name, except the names ``without``."""
        if not without:
            return NamedColumns(values, self._index)
        index = {name: i for name, i in self._index.items() if name not in without}
        return NamedColumns(values, index)

    @torch.no_grad()
    def current(self) -> dict[str, float]:
        """Return the current values as Python numbers, exactly in their range and on their grid."""
        values = self.constrain(self.raw).tolist()
        return {
            name: span.snap(value)
            for (name, span), value in zip(self._ranges.items(), values, strict=True)
        }

    @torch.no_grad()
    def current_scale(self) -> dict[str, float]:
        """Return the current σ of each hyperparameter, in unconstrained space."""
        return dict(zip(self.names, self.scale.tolist(), strict=True))


class NamedColumns(Mapping[str, Tensor]):
    """The columns of a matrix by name.

    The matrix is split when the first column is asked for, since h may be in the thousands.

    Args:
        matrix: One row for each example, shape (B, h).
        index: The index of the column of each name.

    Attributes:
        matrix: The matrix.
    """

    def __init__(self, matrix: Tensor, index: Mapping[str, int]) -> None:
        self.matrix = matrix
        self._index = index

    @functools.cached_property
    def _columns(self) -> tuple[Tensor, ...]:
        return self.matrix.unbind(1)

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[self._index[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def stacked(self, names: Sequence[str]) -> Tensor:
        """Return the columns of ``names`` as a matrix, shape (B, len(names))."""
        columns = [self._index[name] for name in names]
        is_whole = columns == list(range(self.matrix.shape[1]))
        return self.matrix if is_whole else self.matrix[:, columns]


@dataclass(frozen=True)
class Range:
    """The range of one hyperparameter.

    Attributes:
        low: The least value.
        high: The largest value.
        step: The distance of two values on the grid; 0 for a continuous range.
        log: Whether the search is in log space.
        whole: Whether the values are integers.
    """

    low: float
    high: float
    step: float
    log: bool
    whole: bool

    @classmethod
    def of(cls, distribution: BaseDistribution) -> Range:
        """Return the range of a numeric distribution."""
        assert isinstance(distribution, (FloatDistribution, IntDistribution))
        return cls(
            low=distribution.low,
            high=distribution.high,
            step=float(distribution.step or 0),
            log=distribution.log,
            whole=isinstance(distribution, IntDistribution),
        )

    @property
    def lower(self) -> float:
        """The low end of the sigmoid: half a step below ``low``, its logarithm for ``log``."""
        return self._scaled(self.low - self.step / 2)

    @property
    def upper(self) -> float:
        """The high end of the sigmoid: half a step above ``high``, its logarithm for ``log``."""
        return self._scaled(self.high + self.step / 2)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def unconstrain(self, value: float) -> float:
        """Return the λ that maps to a value; for a bound, the λ of a point just inside."""
        position = (self._scaled(value) - self.lower) / (self.upper - self.lower)
        if position <= 0:
            position = _EDGE
        elif position >= 1:
            position = 1 - _EDGE
        return math.log(position) - math.log1p(-position)

    def snap(self, value: float) -> float:
        """Return the value of the range (and its grid) that is nearest to a rounded value.

        Storages check ranges and grids exactly, and single precision rounds.
        """
        if self.step:
            value = self.low + self.step * round((value - self.low) / self.step)
        value = min(max(value, self.low), self.high)
        return int(value) if self.whole else value
