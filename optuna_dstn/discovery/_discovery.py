"""The first pass: what reads hyperparameters, and what would respond to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from torch import Tensor
from torch.nn import Module, Parameter

from optuna_dstn._errors import HyperparameterError, logger
from optuna_dstn.batch._kept_order import KeptOrder
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.discovery._uses import Uses
from optuna_dstn.hyperparameter._in_calls import formulas
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.linearize._torch_call_mode import TorchCallMode, require_sizes
from optuna_dstn.linearize._tracked_tensors import (
    draws_rows,
    is_spread_over_batch,
    makes_tensor,
    may_have_examples,
    without_rule,
)
from optuna_dstn.linearize._written_parameters import storage_of, writes, written_by
from optuna_dstn.parameters._weights import METADATA_FUNCTIONS
from optuna_dstn.rules import Domain, HyperparameterRule, hyperparameter_rules, penalty_rules
from optuna_dstn.tensors._arguments import Function, function_name, leaves
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._in_place import is_in_place


class _Reading(NamedTuple):
    """Hyperparameters, their formula, and the function that they reach."""

    names: frozenset[str]
    formula: str
    function: str


class Discovery(TorchCallMode[_Reading]):
    """Values of today, and a note of what reads hyperparameters and of what responds.

    Args:
        values: Today's value of each hyperparameter.
        batch: Where the examples are.
        distributions: The search range of each hyperparameter.
        linear: Whether the passes at the response are linearised.

    Attributes:
        readers: For each hyperparameter, the functions that read it.
        penalties: For each that is the coefficient of a penalty, the penalties.
        penalised: For each of these, the parameters under them.
        plain_readers: For each, the functions that took it as a size, an axis or a count.
        shared: Those that are read where there is no batch axis (a mean loss, a weight matrix),
            so that their perturbation is one draw for the whole batch.
        uses: ``id`` of each parameter that took part, and how.
        has_warned: Whether a warning of a penalty that is not seen has been given.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        batch: BatchLayout,
        distributions: Mapping[str, BaseDistribution],
        *,
        linear: bool = True,
    ) -> None:
        super().__init__(values)
        self._batch = batch
        self._examples = batch.examples
        self._distributions = distributions
        self.readers: dict[str, set[str]] = {}
        self.penalties: dict[str, set[str]] = {}
        self.penalised: dict[str, list[Tensor]] = {}
        self.plain_readers: dict[str, set[str]] = {}
        self.shared: set[str] = set()
        # What was computed without data, and whether from parameters (else from nothing).
        self._without_data: ByIdentity[bool] = ByIdentity()
        self._roles = TensorRoles(batch, self._is_weight)
        self._order = KeptOrder(batch)
        self._uses = Uses(self._roles, linear=linear)
        self.uses = self._uses.of_parameters
        # Functions of parameters and a hyperparameter that have not met data yet.
        self._weights_read: ByIdentity[_Reading] = ByIdentity()
        # What l2_penalty and its like returned.
        self._visible_penalties: ByIdentity[None] = ByIdentity()
        # Lengths of axes of tensors that were made without data, other than from parameters.
        self._constant_lengths: set[int] = set()
        self.has_warned = False
        self._model: Module | None = None

    def meet(self, model: Module) -> None:
        self._roles.buffers = {id(buffer) for buffer in model.buffers()}
        self._model = model

    @property
    def lengths_tell(self) -> bool:
        """Whether lengths tell the batch axis of all tensors: no constant is as long either."""
        return self._batch.examples == 1 or (
            not self._batch.doubtful_shapes
            and not self._batch.is_misled
            and self._constant_lengths.isdisjoint(self._batch.own_lengths)
        )

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.before_writing(func, args, kwargs)
        tensors = leaves((args, kwargs), Tensor)
        for reading in filter(None, map(self._weights_read.get, tensors)):
            self._require_no_write(reading, func, args, kwargs)
        output = func(*args, **kwargs)
        self._order.note(func, args, kwargs)
        self._batch.note(func, args, kwargs, output)
        outputs = leaves((output,), Tensor)
        meets_examples = func not in penalty_rules and self._uses.note(
            func, args, kwargs, tensors, output, in_model=self.in_model
        )
        if outputs:
            if not meets_examples and all(self._is_without_data(t) for t in tensors):
                for result in outputs:
                    self._note_without_data(func, tensors, result)
            elif not self.in_model:
                self._warn_of_penalty(func, tensors)
        if is_in_place(func) and not all(self._roles.is_constant(t) for t in tensors):
            self._roles.forget(args[0])
        elif not meets_examples:
            self._roles.note(func, tensors, output)
        self._note_constants([*tensors, *outputs])
        if func in penalty_rules:
            self._visible_penalties[output] = None
        return output

    def _note_constants(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            if self._roles.is_constant(tensor) and not self._is_of_parameters(tensor):
                self._constant_lengths.update(tensor.shape)

    def _is_without_data(self, tensor: Tensor) -> bool:
        return self._is_of_parameters(tensor) or tensor in self._without_data

    def _is_of_parameters(self, tensor: Tensor) -> bool:
        return (
            isinstance(tensor, Parameter)
            or tensor in self._uses
            or bool(self._without_data.get(tensor))
        )

    def _is_weight(self, tensor: Any) -> bool:
        return (
            isinstance(tensor, Tensor) and tensor.requires_grad and self._is_of_parameters(tensor)
        )

    def _note_without_data(self, func: Function, tensors: list[Tensor], output: Tensor) -> None:
        self._without_data[output] = any(self._is_of_parameters(t) for t in tensors)
        learning = [t for t in tensors if t.requires_grad]
        for tensor in learning:
            reading = self._weights_read.get(tensor)
            if reading is not None:
                self._note_weights_read(reading, output)

    def _note_weights_read(self, reading: _Reading, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.ndim:
            raise _penalty_error(reading)
        self._weights_read[output] = reading

    def _is_penalty(self, tensor: Tensor) -> bool:
        """Whether a tensor is a scalar function of parameters alone."""
        return tensor.requires_grad and not tensor.ndim and self._is_without_data(tensor)

    def _warn_of_penalty(self, func: Function, tensors: list[Tensor]) -> None:
        if not self.has_warned and any(
            self._is_penalty(t)
            and not isinstance(t, Parameter)
            and t not in self._visible_penalties
            for t in tensors
        ):
            self.has_warned = True
            logger.warning(
                f"A penalty on the model's parameters joins the loss in {function_name(func)}. The "
                "parameters' response to the hyperparameters does not see it there: write "
                "optuna_dstn.l2_penalty(model.parameters(), 1e-4), l1_penalty or weight_decay=."
            )

    # -- reading ---------------------------------------------------------------------------------

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is not None and not rule.is_active(*args, **kwargs):
            return self.call_with_values(func, args, kwargs)
        reading = self._reading(func, args, kwargs)
        self._require_no_write(reading, func, args, kwargs)
        if rule is not None:
            self._check_domains(rule, func, args, kwargs)
        try:
            return self._noted_call(reading, func, args, kwargs)
        except HyperparameterError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise HyperparameterError(
                f"{reading.function} fails with hyperparameter {reading.formula}: {error}"
            ) from error

    def note_sizes(self, func: Function, sizes: Sequence[Hyperparameter]) -> None:
        for number in sizes:
            for name in number.names:
                self.plain_readers.setdefault(name, set()).add(function_name(func))

    def _noted_call(
        self, reading: _Reading, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the call, and note whether it reads the hyperparameters and for whom."""
        rule = hyperparameter_rules.get(func)
        numbers = leaves((args, kwargs), Hyperparameter)
        if func in penalty_rules:
            for number in numbers:
                self._check_domain(func, "coefficient", number, Domain(low=0.0))
            self._note(self.penalties, reading)
            for name in reading.names:
                self.penalised.setdefault(name, []).extend(leaves((args, kwargs), Tensor))
            return self.call_with_values(func, args, kwargs)
        if numbers and makes_tensor(func, args, kwargs):
            return self._track(reading, func, args, kwargs)
        if rule is None and numbers:
            require_sizes(func, numbers)
            self._note(self.plain_readers, reading)
            return self.call_with_values(func, args, kwargs)

        others = [] if func in METADATA_FUNCTIONS else self.untracked(args, kwargs)
        learning = [t for t in others if t.requires_grad]
        if any(self._has_batch_axis(t, func) for t in others) or draws_rows(
            func, args, kwargs, self._examples
        ):
            if rule is None:
                raise without_rule(reading.formula, reading.function)
            self._note(self.readers, reading)
            return self.call_with_values(func, args, kwargs)
        if not learning and (not numbers or (rule is not None and rule.takes_tensors)):
            return self._track(reading, func, args, kwargs)

        self._note(self.readers, reading)
        self.shared |= reading.names
        output = self.call_with_values(func, args, kwargs)
        if any(self._is_penalty(t) for t in learning):
            raise _penalty_error(reading)
        if learning and all(self._is_without_data(t) for t in others):
            self._note_weights_read(reading, output)
        return output

    def _require_no_write(
        self, reading: _Reading, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Check that a call does not write what it reads into the model's parameters."""
        if self._model is None or not writes(func, kwargs):
            return
        own = {storage_of(parameter) for parameter in self._model.parameters()} - {0}  # 0: of none
        if any(storage_of(tensor) in own for tensor in written_by(args, kwargs)):
            function = function_name(func)
            raise HyperparameterError(
                f"Hyperparameter {reading.formula} changes the model's parameters in place in "
                f"{function}, and how training responds to that is not seen. {_INSTEAD_OF_PENALTY}"
            )

    def _reading(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Reading:
        numbers = leaves((args, kwargs), Hyperparameter)
        sources = [
            source
            for tensor in leaves((args, kwargs), Tensor)
            if (source := self.tracked.get(tensor)) is not None
        ]
        names = frozenset().union(*(n.names for n in numbers), *(s.names for s in sources))
        formula = ", ".join(filter(None, [formulas(numbers), *(s.formula for s in sources)]))
        return _Reading(names, formula, function_name(func))

    def _has_batch_axis(self, tensor: Tensor, func: Function) -> bool:
        return may_have_examples(func, tensor, self._roles) and not self._is_of_parameters(tensor)

    def _track(
        self, reading: _Reading, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the call and remember that its result was made from hyperparameters."""
        output = self.call_with_values(func, args, kwargs)
        for tensor in leaves(args[:1] if is_in_place(func) else (output,), Tensor):
            if is_spread_over_batch(func, tensor, self._examples):
                self._note(self.readers, reading)
            else:
                self.tracked[tensor] = reading
        return output

    def _note(self, book: dict[str, set[str]], reading: _Reading) -> None:
        for name in reading.names:
            book.setdefault(name, set()).add(reading.function)

    def _check_domains(
        self,
        rule: HyperparameterRule,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if rule.domain:
            given = rule.arguments(*args, **kwargs)
            for argument, domain in rule.domain.items():
                self._check_domain(func, argument, given.get(argument), domain)

    def _check_domain(self, func: Function, argument: str, number: Any, domain: Domain) -> None:
        """Check that the search range of an argument stays where the function makes sense."""
        if not isinstance(number, Hyperparameter):
            return
        low, high = self._range(number)
        if low not in domain or high not in domain:
            raise HyperparameterError(
                f"Hyperparameter {formulas([number])} ranges over [{low:g}, {high:g}], but "
                f"{argument} of {function_name(func)} makes sense in {domain} only. Suggest it "
                f"within {domain}" + (", ends excluded." if domain.is_open else ".")
            )

    def _range(self, number: Hyperparameter) -> tuple[float, float]:
        """Return the least and the largest value of a formula on the corners of its ranges."""
        names = sorted(number.names)
        bounds = [_bounds(self._distributions.get(name)) for name in names]
        values = [
            number.expression.evaluate(dict(zip(names, corner, strict=True)))
            for corner in itertools.product(*bounds)
        ]
        return min(values), max(values)


_INSTEAD_OF_PENALTY = (
    "For a penalty on weights give the optimizer weight_decay=h, or add "
    "optuna_dstn.l2_penalty(model.parameters(), h) or optuna_dstn.l1_penalty(...) to the loss; "
    "otherwise write float(...) around it to leave it to the study's sampler."
)


def _penalty_error(reading: _Reading) -> HyperparameterError:
    return HyperparameterError(
        f"Hyperparameter {reading.formula} meets the model's parameters alone in "
        f"{reading.function}, where their response to it is not seen. {_INSTEAD_OF_PENALTY}"
    )


def _bounds(distribution: BaseDistribution | None) -> tuple[float, float]:
    if distribution is None:  # unknown: it is reported as such when its value is asked for
        return 0.0, 0.0
    return distribution.low, distribution.high  # type: ignore[attr-defined]
