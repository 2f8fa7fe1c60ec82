"""The tuned hyperparameters as one point λ of an unconstrained space, and perturbations of it."""

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


# A start on the very edge of a range has no finite λ: it begins this fraction of the range inside.
_EDGE = 1e-2


class Space:
    """Maps λ ∈ R^h to the ranges of the tuned hyperparameters.

    For a range [a, b] the map is the stretched sigmoid

        value = a + (b − a)·sigmoid(λ),

    taken in log space for ``log=True``. A stepped or integer range is relaxed by half a step at
    either end, and the value is rounded to the grid. The probabilities of a choice are the softmax
    of their λ.

    Args:
        distributions: The tuned hyperparameters; float or int, with low < high. All options of a
            choice are among them.
        start: A value for each, in its range.
        scale: σ at the start, in unconstrained space, the same for all; > 0.
        like: A tensor whose device and dtype λ takes, in single precision at least: half of it is
            too coarse for small steps.

    Attributes:
        names: The h names, in the order of the columns.
        parameters: The trial's parameters that they belong to: a choice is one of them.
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
        self._place = like.device, like.dtype
        like = like.to(torch.promote_types(like.dtype, torch.float32))
        self._ranges = {name: Range.of(d) for name, d in distributions.items()}
        self.names = tuple(self._ranges)
        self.parameters = parameter_names(distributions)
        self._index = {name: column for column, name in enumerate(self.names)}
        ranges = self._ranges.values()

        def column(numbers: Iterable[float]) -> Tensor:
            return torch.tensor(list(numbers), dtype=like.dtype, device=like.device)

        self._low = column(r.low for r in ranges)
        self._high = column(r.high for r in ranges)
        self._step = column(r.step for r in ranges)
        self._lower = column(r.lower for r in ranges)
        self._width = column(r.upper - r.lower for r in ranges)
        self._is_log = torch.tensor([r.log for r in ranges], device=like.device)
        self._any_log = any(r.log for r in ranges)
        self._any_step = any(r.step for r in ranges)
        self._choices = [
            torch.tensor(columns, device=like.device)
            for columns in columns_of_choices(distributions)
        ]

        self.raw = column(r.unconstrain(float(start[n])) for n, r in self._ranges.items())
        for columns in self._choices:
            chances = [float(start[self.names[column]]) for column in columns.tolist()]
            self.raw[columns] = column(chances).log()
        # softplus(log(e^σ − 1)) = σ
        self.raw_scale = torch.full_like(self.raw, math.log(math.expm1(scale)))
        self.raw.requires_grad_()
        self.raw_scale.requires_grad_()

    def __len__(self) -> int:
        return len(self.names)

    def require_same_place(self, model: nn.Module) -> None:
        """Check that the model is where, and of what precision, it was in the first step.

        Raises:
            RuntimeError: If it was moved or converted since.
        """
        place = self._place
        # One that is there is enough: a part of another precision is the user's own.
        if not any((p.device, p.dtype) == place for p in model.parameters()):
            weights = next(model.parameters())
            raise RuntimeError(
                f"The model was converted from {place[1]} on {place[0]} to "
                f"{weights.dtype} on {weights.device} after its first training step, but its "
                "response and optimizer were not. Call model.to(...) before making the optimizer "
                "and the Tuner."
            )

    def constrain(self, raw: Tensor) -> Tensor:
        """Return the values at ``raw``: shape (..., h) to shape (..., h), each in its range."""
        values = self._lower + self._width * torch.sigmoid(raw)
        if self._any_log:
            logs = torch.where(
                self._is_log, values, 0
            )  # others may overflow, as may their gradient
            values = torch.where(self._is_log, logs.exp(), values)
        if self._any_step:
            step = torch.where(self._step > 0, self._step, 1)
            rounded = self._low + step * torch.round((values - self._low) / step)
            values = torch.where(self._step > 0, rounded, values)
        for columns in self._choices:
            chances = raw.index_select(-1, columns).softmax(-1)
            values = values.index_copy(-1, columns, chances)
        return torch.clamp(values, self._low, self._high)

    @property
    def scale(self) -> Tensor:
        """σ = softplus(ρ), shape (h,), in unconstrained space."""
        return F.softplus(self.raw_scale)

    def perturbation(self, examples: int, shared: Collection[str] = ()) -> Tensor:
        """Draw ε ~ N(0, diag(σ²)), one row per example: shape (examples, h).

        Args:
            examples: The number of rows.
            shared: Names whose column holds one draw in all rows.
        """
        noise = torch.randn(examples, len(self), dtype=self.raw.dtype, device=self.raw.device)
        if shared:
            columns = [self._index[name] for name in shared]
            noise[:, columns] = noise[0, columns]
        return self.scale * noise

    def entropy(self) -> Tensor:
        """Return H = Σ log(σ√(2πe)) of the perturbation, a scalar."""
        return (self.scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()

    def columns(self, values: Tensor, without: Collection[str] = ()) -> NamedColumns:
        """Name the columns of ``values``, shape (B, h), all but those ``without``."""
        index = {n: c for n, c in self._index.items() if n not in without}
        return NamedColumns(values, index if without else self._index)

    @torch.no_grad()
    def current(self) -> dict[str, float]:
        """Return today's values as numbers, each exactly in its range (and on its grid)."""
        values = self.constrain(self.raw).tolist()
        return {
            name: r.snap(value)
            for (name, r), value in zip(self._ranges.items(), values, strict=True)
        }

    @torch.no_grad()
    def current_scale(self) -> dict[str, float]:
        """Return today's σ as numbers, in unconstrained space."""
        return dict(zip(self.names, self.scale.tolist(), strict=True))


class NamedColumns(Mapping[str, Tensor]):
    """The columns of a matrix by name, cut when they are asked for: h may be thousands.

    Args:
        matrix: Shape (B, h).
        index: The column of each name.
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
        """Return the columns of ``names`` side by side: shape (B, len(names))."""
        columns = [self._index[name] for name in names]
        is_whole = columns == list(range(self.matrix.shape[1]))
        return self.matrix if is_whole else self.matrix[:, columns]


@dataclass(frozen=True)
class Range:
    """One search range: its bounds and grid as suggested, and as relaxed for the sigmoid."""

    low: float
    high: float
    step: float  # 0 where continuous
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
        """The low end, half a step of the grid below the least value, in log space if it is so."""
        return self._scaled(self.low - self.step / 2)

    @property
    def upper(self) -> float:
        """The high end, half a step of the grid above the largest value, likewise."""
        return self._scaled(self.high + self.step / 2)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def unconstrain(self, value: float) -> float:
        """Return the λ whose value is ``value``; on the edge, that of a point just inside."""
        position = (self._scaled(value) - self.lower) / (self.upper - self.lower)
        if position <= 0:
            position = _EDGE
        elif position >= 1:
            position = 1 - _EDGE
        return math.log(position) - math.log1p(-position)

    def snap(self, value: float) -> float:
        """Undo the rounding of single precision: storages check ranges and grids exactly."""
        if self.step:
            value = self.low + self.step * round((value - self.low) / self.step)
        value = min(max(value, self.low), self.high)
        return int(value) if self.whole else value
