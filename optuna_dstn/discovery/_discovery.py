"""The mode of the first pass: it notes what reads hyperparameters, and which parameters respond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from torch import Tensor
from torch.nn import Module, Parameter

from optuna_dstn._errors import HyperparameterError, logger
from optuna_dstn.batch._kept_order import KeptOrder
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.discovery._parameter_uses import Uses
from optuna_dstn.discovery._ranges import require_range_in_domain, require_ranges_in_domains
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
from optuna_dstn.rules import Domain, hyperparameter_rules, penalty_rules
from optuna_dstn.tensors._arguments import Function, function_name, leaves
from optuna_dstn.tensors._identity import ByIdentity
from optuna_dstn.tensors._in_place import is_in_place


class _Read(NamedTuple):
    """A torch call that reads hyperparameters: their names, their formula, and the function."""

    names: frozenset[str]
    formula: str
    function: str


class Discovery(TorchCallMode[_Read]):
    """The mode of the first pass: hyperparameters have their current values, and calls are noted.

    Args:
        values: The current value of each hyperparameter.
        batch: Finds the batch axis of a tensor.
        distributions: The search range of each hyperparameter.
        linear: Whether the response's pass is linearised at the weights.

    Attributes:
        readers: For each hyperparameter, the functions that read it.
        penalties: For each hyperparameter that is the coefficient of a penalty, the penalties.
        penalised: For each hyperparameter in :attr:`penalties`, the parameters that it penalises.
        plain_readers: For each hyperparameter, the functions that take it as a size, an axis or a
            count.
        deciding: For each hyperparameter, the functions by which Python code reads a tensor made of
            it, for instance to skip a layer.
        shared: The names of hyperparameters that a call reads where no tensor has a batch axis (a
            mean loss, a weight matrix). Their perturbation is one draw for the whole batch.
        uses: How each parameter takes part in the pass, by ``id``.
        hidden: ``id`` of each parameter that takes part inside a custom autograd function.
        order: Whether the examples keep their order.
        has_warned: Whether the user has been warned of a penalty that the response does not see.
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
        self.deciding: dict[str, set[str]] = {}
        self.shared: set[str] = set()
        # Tensors that were computed without data; the value says whether parameters took part.
        self._without_data: ByIdentity[bool] = ByIdentity()
        self._roles = TensorRoles(batch, self._is_weight)
        self.order = KeptOrder(batch)
        self._uses = Uses(self._roles, linear=linear)
        self.uses = self._uses.of_parameters
        self.hidden = self._uses.hidden
        # Tensors that were computed from parameters and a hyperparameter, and not yet from data.
        self._reads_of_weights: ByIdentity[_Read] = ByIdentity()
        # The results of l2_penalty and l1_penalty, which the response does see.
        self._visible_penalties: ByIdentity[None] = ByIdentity()
        # The lengths of axes of constants: of tensors made neither from data nor from parameters.
        self._constant_lengths: set[int] = set()
        self.has_warned = False
        self._model: Module | None = None

    def note_model(self, model: Module) -> None:
        self._roles.buffers = {id(buffer) for buffer in model.buffers()}
        self._model = model

    @property
    def lengths_tell(self) -> bool:
        """Whether lengths tell the batch axis of all tensors, and no constant is as long."""
        return self._batch.examples == 1 or (
            not self._batch.doubtful_shapes
            and not self._batch.is_misled
            and self._constant_lengths.isdisjoint(self._batch.own_lengths)
        )

    def on_call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.note_write(func, args, kwargs)
        tensors = leaves((args, kwargs), Tensor)
        for read in filter(None, map(self._reads_of_weights.get, tensors)):
            self._require_no_write(read, func, args, kwargs)
        output = func(*args, **kwargs)
        self.order.note(func, args, kwargs)
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
            read = self._reads_of_weights.get(tensor)
            if read is not None:
                self._note_read_of_weights(read, output)

    def _note_read_of_weights(self, read: _Read, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.ndim:
            raise _penalty_error(read)
        self._reads_of_weights[output] = read

    def _is_penalty(self, tensor: Tensor) -> bool:
        """Return whether a tensor is a scalar function of parameters alone."""
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

    # -- calls with hyperparameters --------------------------------------------------------------

    def on_hyperparameter_call(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is not None and not rule.is_active(*args, **kwargs):
            return self.run_at_current_values(func, args, kwargs)
        read = self._read_of(func, args, kwargs)
        self._require_no_write(read, func, args, kwargs)
        if rule is not None:
            require_ranges_in_domains(rule, self._distributions, func, args, kwargs)
        try:
            return self._note_and_run(read, func, args, kwargs)
        except HyperparameterError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise HyperparameterError(
                f"{read.function} fails with hyperparameter {read.formula}: {error}"
            ) from error

    def note_sizes(self, func: Function, sizes: Sequence[Hyperparameter]) -> None:
        for number in sizes:
            for name in number.names:
                self.plain_readers.setdefault(name, set()).add(function_name(func))

    def _note_and_run(
        self, read: _Read, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call, and note whether it tunes, penalises, or takes hyperparameters as sizes."""
        rule = hyperparameter_rules.get(func)
        numbers = leaves((args, kwargs), Hyperparameter)
        if func in penalty_rules:
            for number in numbers:
                require_range_in_domain(
                    number, Domain(low=0.0), self._distributions, func, "coefficient"
                )
            self._add_reader(self.penalties, read)
            for name in read.names:
                self.penalised.setdefault(name, []).extend(leaves((args, kwargs), Tensor))
            return self.run_at_current_values(func, args, kwargs)
        if numbers and makes_tensor(func, args, kwargs):
            return self._track(read, func, args, kwargs)
        if rule is None and numbers:
            require_sizes(func, numbers)
            self._add_reader(self.plain_readers, read)
            return self.run_at_current_values(func, args, kwargs)

        others = [] if func in METADATA_FUNCTIONS else self.untracked_tensors(args, kwargs)
        learning = [t for t in others if t.requires_grad]
        if any(self._has_batch_axis(t, func) for t in others) or draws_rows(
            func, args, kwargs, self._examples
        ):
            if rule is None:
                raise without_rule(read.formula, read.function)
            self._add_reader(self.readers, read)
            return self.run_at_current_values(func, args, kwargs)
        if not learning and (not numbers or (rule is not None and rule.takes_tensors)):
            return self._track(read, func, args, kwargs)

        self._add_reader(self.readers, read)
        self.shared |= read.names
        output = self.run_at_current_values(func, args, kwargs)
        if any(self._is_penalty(t) for t in learning):
            raise _penalty_error(read)
        if learning and all(self._is_without_data(t) for t in others):
            self._note_read_of_weights(read, output)
        return output

    def _require_no_write(
        self, read: _Read, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Check that a call does not write a hyperparameter into the model's parameters."""
        if self._model is None or not writes(func, kwargs):
            return
        own = {storage_of(parameter) for parameter in self._model.parameters()} - {
            0
        }  # 0: no storage
        if any(storage_of(tensor) in own for tensor in written_by(args, kwargs)):
            function = function_name(func)
            raise HyperparameterError(
                f"Hyperparameter {read.formula} changes the model's parameters in place in "
                f"{function}, and how training responds to that is not seen. {_INSTEAD_OF_PENALTY}"
            )

    def _read_of(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Read:
        numbers = leaves((args, kwargs), Hyperparameter)
        sources = [
            source
            for tensor in leaves((args, kwargs), Tensor)
            if (source := self.tracked.get(tensor)) is not None
        ]
        names = frozenset().union(*(n.names for n in numbers), *(s.names for s in sources))
        formula = ", ".join(filter(None, [formulas(numbers), *(s.formula for s in sources)]))
        return _Read(names, formula, function_name(func))

    def _has_batch_axis(self, tensor: Tensor, func: Function) -> bool:
        return may_have_examples(func, tensor, self._roles) and not self._is_of_parameters(tensor)

    def _track(
        self, read: _Read, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call, and remember that its result was made from hyperparameters."""
        output = self.run_at_current_values(func, args, kwargs)
        if isinstance(output, (bool, int, float)):
            self._add_reader(self.deciding, read)
        for tensor in leaves(args[:1] if is_in_place(func) else (output,), Tensor):
            if is_spread_over_batch(func, tensor, self._examples):
                self._add_reader(self.readers, read)
            else:
                self.tracked[tensor] = read
        return output

    def _add_reader(self, book: dict[str, set[str]], read: _Read) -> None:
        for name in read.names:
            book.setdefault(name, set()).add(read.function)


_INSTEAD_OF_PENALTY = (
    "For a penalty on weights give the optimizer weight_decay=h, or add "
    "optuna_dstn.l2_penalty(model.parameters(), h) or optuna_dstn.l1_penalty(...) to the loss; "
    "otherwise write float(...) around it to leave it to the study's sampler."
)


def _penalty_error(read: _Read) -> HyperparameterError:
    return HyperparameterError(
        f"Hyperparameter {read.formula} meets the model's parameters alone in "
        f"{read.function}, where their response to it is not seen. {_INSTEAD_OF_PENALTY}"
    )
