"""Watch the model's parameters after the first step has decided which of them respond."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import itertools
import operator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optuna_dstn._errors import logger, shortened
from optuna_dstn.discovery._plan import FROZEN, NO_PART, NOT_HELD, TuningPlan


_NAMES_SHOWN = 6


class ParameterWatch:
    """Warns when parameters train without a response, and raises when they stop training.

    A model may change after the first step: a layer is unfrozen, a head is replaced, the optimizer
    gets another group. The response knows only the parameters of the first step.

    Args:
        model: The model.
        optimizer: The model's optimizer.
        plan: The plan that the first step has made.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, plan: TuningPlan) -> None:
        self._model = model
        self._optimizer = optimizer
        self._responding = {n: p for group in plan.responding for n, p in group.items()}
        reasons = plan.not_responding
        # ``id`` of the parameters that respond, or whose lack of a response needs no warning.
        self._others = {
            id(parameter)
            for name, parameter in model.named_parameters()
            if reasons.get(name) not in (FROZEN, NO_PART, NOT_HELD)
        }
        self._note_structure()
        self._note_optimizer()
        self._warn_of_strangers([name for name, why in reasons.items() if why == NOT_HELD])

    def _note_structure(self) -> None:
        self._dictionaries: list[dict[str, Any]] = [
            dictionary
            for module in self._model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # no layer of it can be replaced
            for dictionary in (module._parameters, module._modules)
        ]
        self._contents = self._present_contents()
        self._silent = [p for p in self._model.parameters() if id(p) not in self._others]

    def _present_contents(self) -> list[Any]:
        return [*itertools.chain.from_iterable(map(dict.values, self._dictionaries))]

    def _note_optimizer(self) -> None:
        self._count = self._present_count()
        self._held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}

    def _present_count(self) -> int:
        return sum(len(group["params"]) for group in self._optimizer.param_groups)

    def _warn_of_strangers(self, not_held: Sequence[str]) -> None:
        """Warn if the optimizer seems to hold parameters that the model had before."""
        own = {id(p) for p in self._model.parameters()}
        strangers = len(self._held - own)
        parameters = dict(self._model.named_parameters())
        untrained = [name for name in not_held if parameters[name].grad is not None]
        if strangers and untrained:
            logger.warning(
                f"The training loss depends on {_listed(untrained)} of the model, which the "
                f"optimizer does not hold, while it holds {strangers} that the model does not "
                "have. So they are not trained and do not respond to the hyperparameters. If they "
                "have replaced others since the optimizer was made, make it afterwards."
            )

    def require_none_replaced(self) -> None:
        """Check, before a step, that the model still has the parameters that respond.

        Raises:
            RuntimeError: If a parameter was replaced by one that the optimizer does not hold.
        """
        present = self._present_contents()
        if len(present) == len(self._contents) and all(map(operator.is_, present, self._contents)):
            return
        self._note_optimizer()
        before = set(map(id, self._contents))
        parameters = dict(self._model.named_parameters())
        after = {id(p) for p in parameters.values()}
        gone = [n for n, p in self._responding.items() if id(p) in before - after]
        new = [
            name
            for name, p in parameters.items()
            if p.requires_grad and id(p) not in before and id(p) not in self._held
        ]
        if gone and new:
            raise RuntimeError(
                f"After the first training step the model lost {_listed(gone)} and got "
                f"{_listed(new)}, but the optimizer and the response hold what was there before, "
                "so the new would not be trained. Write new values into the old parameters (with "
                "torch.no_grad(): p.copy_(values), or model.load_state_dict(...) without "
                "assign=True), or replace them before making the optimizer and the Tuner; if the "
                "new are not to be trained, set requires_grad_(False)."
            )
        self._note_structure()

    def warn_of_late(self) -> None:
        """Warn of parameters that got their first gradient in the last ``backward``."""
        if self._present_count() != self._count:
            self._note_optimizer()
        late = {
            id(p)
            for p in self._silent
            if p.requires_grad and p.grad is not None and id(p) in self._held
        }
        if not late:
            return
        names = [name for name, p in self._model.named_parameters() if id(p) in late]
        self._others |= late
        self._silent = [p for p in self._silent if id(p) not in late]
        logger.warning(
            f"{_listed(names)} of the model began to train after the first training step, in which "
            "it was settled what responds to the hyperparameters. They are trained, but do not "
            "respond. Let all parameters take part in the first step, with requires_grad=True and "
            "in the optimizer; those that are to train later in a group with lr=0 until then."
        )


def _listed(names: Iterable[str]) -> str:
    return shortened(list(names), _NAMES_SHOWN)
