"""The passes at the response: of the response itself, on training data, and of λ, on validation."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
import functools
from typing import Any

from torch import Tensor, nn

from optuna_dstn._errors import HyperparameterError, first_line
from optuna_dstn.batch._roles import TensorRoles
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.linearize._prediction import Prediction
from optuna_dstn.linearize._torch_call_mode import TorchCallMode, Tracked, read_in_validation
from optuna_dstn.linearize._tracked_tensors import (
    computed_per_example,
    draws_rows,
    is_spread_over_batch,
    makes_tensor,
    may_have_examples,
    values_of_new_tensor,
    without_rule,
)
from optuna_dstn.parameters._meeting_examples import (
    EXPANDING_FUNCTIONS,
    examples_met,
    for_each_example,
    spread,
)
from optuna_dstn.parameters._weights import (
    METADATA_FUNCTIONS,
    is_of_weights,
    looks_only,
    responding_results,
)
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules import (
    HyperparameterRule,
    PerExample,
    forward_ad_rules,
    hyperparameter_rules,
    layer_rules,
    penalty_rules,
    tangent_in_graph,
)
from optuna_dstn.space import NamedColumns
from optuna_dstn.tensors._arguments import Function, function_name, leaves, replaced, results_of
from optuna_dstn.tensors._dual import is_dual
from optuna_dstn.tensors._in_place import is_in_place


class Responding(TorchCallMode[Tracked]):
    """A pass of the network at Δ given by the response.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of the responding parameters, each example its own; whether the network is
            linearised in it; and where the batch is.

    Attributes:
        deltas: As given, and Δ of what the pass computes from the parameters.
        prediction: Completes what the model returns.
    """

    def __init__(self, values: Mapping[str, float], deltas: Deltas) -> None:
        super().__init__(values)
        self.deltas = deltas
        self.prediction = Prediction()
        self._roles = TensorRoles(deltas.batch, deltas.__contains__)

    def meet(self, model: nn.Module) -> None:
        self._roles.buffers = {id(buffer) for buffer in model.buffers()}

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        deltas = self.deltas
        rule = layer_rules.get(func)
        if rule is not None and rule.serves(self._roles, args, kwargs):
            output = rule.apply(deltas, *args, **kwargs)
            deltas.batch.note(func, args, kwargs, output)
            return output
        self.before_writing(func, args, kwargs)
        tensors = leaves((args, kwargs), Tensor)
        own = [t for t in tensors if t in deltas]
        if own and self.in_model and not looks_only(func, args, own):
            output, meets_examples = self._combined(own, tensors, func, args, kwargs)
        else:
            output, meets_examples = run(func, args, kwargs), False
            self.prediction.note(func, args, kwargs, output)  # called again, it would know no Δ
        if is_in_place(func) and not all(self._roles.is_constant(t) for t in tensors):
            self._roles.forget(args[0])
        elif not meets_examples:
            self._roles.note(func, tensors, output)
        deltas.batch.note(func, args, kwargs, output)
        return output

    def _combined(
        self,
        own: list[Tensor],
        tensors: list[Tensor],
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, bool]:
        """Run a call of a function without a rule on responding parameters, ``own``.

        Returns:
            What the function returns, and whether the examples take part in it.
        """
        deltas = self.deltas
        if is_in_place(func) and args[0] in deltas:
            _move_shared_in_batch(deltas, args[0])
            own = [t for t in own if t in deltas]
        like = examples_met(func, args, kwargs, own, self._roles) if own else None
        if like is not None and func in EXPANDING_FUNCTIONS:
            output = spread(deltas, func, args, kwargs)
            if output is not None:
                return output, True
            like = None
        others = [] if func in METADATA_FUNCTIONS else [t for t in tensors if t not in deltas]
        if (
            is_of_weights(func, tensors, own, self._roles)
            and not any(_responds(t) for t in others)
            and (output := responding_results(deltas, own, func, args, kwargs, forward_ad_rules))
            is not None
        ):
            return output, False
        move = (
            deltas.shared_in_batch
            if like is None
            else functools.partial(for_each_example, deltas, like=like)
        )
        args, kwargs = replaced((args, kwargs), lambda t: move(t) if t in deltas else t, Tensor)
        return run(func, args, kwargs), like is not None


def _move_shared_in_batch(deltas: Deltas, computed: Tensor) -> None:
    """Move a tensor that was computed from parameters in place, by one Δ for the whole batch."""
    moved = deltas.shared_in_batch(computed)
    deltas.forget(computed)
    computed.copy_(moved)


class PerturbedValues(Responding[PerExample]):
    """The response's pass: every hyperparameter is one value per example.

    Args:
        values: Today's value of each hyperparameter.
        deltas: Δ of the responding parameters.
        perturbed: The tuned hyperparameters' values, one per example.
        shared: The values of those that are perturbed alike in the whole batch.

    Attributes:
        names: The hyperparameters read so far.
    """

    def __init__(
        self,
        values: Mapping[str, float],
        deltas: Deltas,
        perturbed: NamedColumns,
        shared: Mapping[str, float],
    ) -> None:
        super().__init__({**values, **shared}, deltas)
        self.names: set[str] = set()
        self._columns = perturbed
        self._examples = perturbed.matrix.shape[0]
        self._perturbed: Mapping[str, Any] = ChainMap(perturbed, self._values)  # type: ignore[arg-type]

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = hyperparameter_rules.get(func)
        if rule is not None and not rule.is_active(*args, **kwargs):
            return self.call_with_values(func, args, kwargs)
        if makes_tensor(func, args, kwargs):
            made_of = leaves((args, kwargs), Hyperparameter)
            if made_of:
                return self._new_tensor(made_of, func, args, kwargs)
        function = function_name(func)
        numbers: list[Hyperparameter] = []
        perturbed: list[PerExample] = []
        others: list[Tensor] = []

        def per_example(leaf: Any) -> Any:
            if isinstance(leaf, Hyperparameter):
                numbers.append(leaf)
                self.names |= leaf.names
                values, formula = leaf.expression.evaluate(self._perturbed), str(leaf.expression)
                if not isinstance(values, Tensor):
                    return values
            else:
                source = self.tracked.get(leaf)
                if source is None:
                    others.append(leaf)
                    return leaf
                values, formula = source.values, source.formula
            perturbed.append(PerExample(values, formula, function, self.deltas.batch))
            return perturbed[-1]

        own_args, own_kwargs = replaced((args, kwargs), per_example, (Hyperparameter, Tensor))
        if not perturbed:
            return self.call(func, own_args, own_kwargs)
        if func in penalty_rules:
            return penalty_rules[func].apply(self.deltas, *own_args, **own_kwargs)
        if rule is None and numbers:
            return self.call_with_values(func, args, kwargs)  # sizes
        if func in METADATA_FUNCTIONS:
            others = []
        if any(may_have_examples(func, t, self._roles) for t in others) or draws_rows(
            func, args, kwargs, self._examples
        ):
            if rule is None:
                raise without_rule(perturbed[0].formula, function)
            output = self._by_rule(rule, perturbed, own_args, own_kwargs)
            self.deltas.batch.note(func, own_args, own_kwargs, output)
            self.prediction.note(func, own_args, own_kwargs, output, self._form(rule))
            return output
        if any(_responds(t) for t in others) and rule is not None:  # the batch axis is missing
            return self._by_rule(rule, perturbed, own_args, own_kwargs)
        return self._computed(perturbed, func, (args, kwargs), own_args, own_kwargs)

    def _form(self, rule: HyperparameterRule) -> Function:
        """Return what to call in the torch function's place."""
        return functools.partial(rule.apply, self.deltas) if rule.takes_deltas else rule.apply

    def _by_rule(
        self,
        rule: HyperparameterRule,
        sources: list[PerExample],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return self._form(rule)(*args, **kwargs)
        except HyperparameterError:
            raise
        except (RuntimeError, TypeError, IndexError) as error:
            formula = ", ".join(dict.fromkeys(source.formula for source in sources))
            raise HyperparameterError(
                f"{sources[0].function} fails with one value of {formula} for each of the "
                f"{self._examples} examples ({error}). Let what it meets have the batch as its "
                f"first axis, or write float(...) around {formula} to leave it to the study's "
                "sampler."
            ) from error

    def _new_tensor(
        self,
        numbers: list[Hyperparameter],
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self.names.update(*(number.names for number in numbers))
        output = self.call_with_values(func, args, kwargs)
        if all(number.names.isdisjoint(self._columns) for number in numbers):
            return output
        values = values_of_new_tensor(
            func, args, kwargs, output, self._columns, lambda e: e.evaluate(self._perturbed)
        )
        formula = ", ".join(str(number.expression) for number in numbers)
        source = PerExample(values, formula, function_name(func), self.deltas.batch)
        return self._track(func, output, source)

    def _computed(
        self,
        sources: list[PerExample],
        func: Function,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Bring the values of all examples along through a call that no data takes part in."""
        if is_in_place(func):
            results = computed_per_example(func, args, kwargs, self._examples)
            output = self.call_with_values(func, *given)
            targets = given[0][:1]
        else:
            output = self.call_with_values(func, *given)
            targets = results_of(output)
            if not leaves(targets, Tensor):  # t.shape, t.item()
                return output
            results = computed_per_example(func, args, kwargs, self._examples)
        formula = ", ".join(dict.fromkeys(source.formula for source in sources))
        batch = self.deltas.batch
        sources = [PerExample(values, formula, function_name(func), batch) for values in results]
        tracked = [self._track(func, *pair) for pair in zip(targets, sources, strict=True)]
        return tracked[0] if output is targets[0] else output

    def _track(self, func: Function, tensor: Tensor, source: PerExample) -> Tensor:
        if is_spread_over_batch(func, tensor, self._examples):
            rows = source.values.diagonal(dim1=0, dim2=1).movedim(-1, 0)
            return tensor.copy_(rows) if is_in_place(func) else rows.contiguous()
        self.tracked[tensor] = source
        return tensor


class RespondingValidation(Responding[str]):
    """The hyperparameters' pass: on validation data, where reading one is an error."""

    def read(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return read_in_validation(self, func, args, kwargs)


def run(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a call, with dual numbers among its arguments or not.

    Raises:
        NotImplementedError: If it has no derivative in forward mode; the message names it as the
            user's code does.
    """
    try:
        if func not in forward_ad_rules and not is_in_place(func):
            output = tangent_in_graph(func, args, kwargs)
            if output is not None:
                return output
        return forward_ad_rules.get(func, func)(*args, **kwargs)
    except NotImplementedError as error:
        raise NotImplementedError(f"{function_name(func)}: {first_line(error)}") from error


def _responds(tensor: Tensor) -> bool:
    """Whether a tensor of a linearised pass depends on Δ."""
    return tensor.requires_grad or is_dual(tensor)
