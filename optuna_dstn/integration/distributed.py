"""One trial for all processes that train a model together."""

from __future__ import annotations

from collections.abc import Callable
import copy
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial, FrozenTrial
from torch import distributed

from optuna_dstn._errors import described
from optuna_dstn.study._study import DSTNStudy
from optuna_dstn.study._trial import DSTNTrial


def distributed_trial(trial: Any, group: Any = None) -> Any:
    """Return one trial for all processes of a group, in place of ``TorchDistributedTrial``.

    The first process runs the study, and every process runs the objective. Each suggested value
    comes from the first process. Under a study of :func:`optuna_dstn.create_study` it is a number
    that the :class:`~optuna_dstn.Tuner` tunes, the same in all processes. The storage sees the
    trial of the first process alone.

    All processes have to call the methods of the trial, and those of the Tuner, in the same order.

    Example:
        >>> def objective(trial):  # doctest: +SKIP
        ...     trial = distributed_trial(trial)
        ...     model = DistributedDataParallel(make_model(trial.suggest_float("p", 0.0, 0.9)))
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        ...     ...
        >>> if torch.distributed.get_rank() == 0:  # doctest: +SKIP
        ...     study.optimize(objective, n_trials=1)
        ... else:
        ...     objective(None)

    Args:
        trial: In the first process, the trial that the objective got, or a ``FixedTrial`` or
            ``FrozenTrial``; in the others ``None``.
        group: A process group; ``None`` takes the default one.

    Returns:
        An ``optuna.Trial`` with the values of the first process. ``trial`` itself if
        ``torch.distributed`` has no process group.

    Raises:
        TypeError: If the first process has no trial, or another one has a trial of its own; in all
            processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return trial
    group = distributed.group.WORLD if group is None else group
    given: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(given, _facts_of(trial), group=group)
    first, *others = given
    if first is None or isinstance(first, str) or any(facts is not None for facts in others):
        raise TypeError(
            "distributed_trial takes the trial of the study in the first process and None in all "
            f"others, and got {described(trial)} in process {distributed.get_rank(group)}. Call "
            "study.optimize(objective, ...) in the first process alone, and objective(None) as "
            "many times in the others."
        )
    if isinstance(first, (FixedTrial, FrozenTrial)):
        return first if trial is None else trial
    is_first = trial is not None
    return _shared(trial if is_first else _local_trial(first), group, is_first=is_first)


def _facts_of(trial: Any) -> Any:
    """Return what the other processes need to know of the trial of the first one."""
    if isinstance(trial, (FixedTrial, FrozenTrial)):
        return trial
    if not isinstance(trial, optuna.Trial):
        return trial if trial is None else described(trial)
    facts = {"directions": trial.study.directions, "number": trial.number}
    if isinstance(trial, DSTNTrial):
        facts |= {"config": trial.config, "enqueued": trial.enqueued_names}
    return facts


class _SharedValues:
    """What a trial asks of the study, answered by the first process for all."""

    process_group: Any
    is_first: bool

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        suggest = super()._suggest  # type: ignore[misc]
        value = self._of_first(lambda: suggest(name, distribution))
        if not self.is_first:
            self._fixed_params[name] = value  # type: ignore[attr-defined]
            suggest(name, distribution)
        return value

    def should_prune(self) -> bool:
        self.is_pruned = bool(self._of_first(super().should_prune))  # type: ignore[misc]
        return self.is_pruned

    def _of_first(self, ask: Callable[[], Any]) -> Any:
        """Return what the first process is answered, or raise its error."""
        answers: list[Any] = [None, None]
        if self.is_first:
            try:
                answers[0] = ask()
            except Exception as error:  # the others would wait for ever
                answers[1] = error
        first = distributed.get_global_rank(self.process_group, 0)
        distributed.broadcast_object_list(answers, first, group=self.process_group)
        answer, failure = answers
        if failure is not None:
            raise failure
        return answer


class _SharedTrial(_SharedValues, optuna.Trial):
    """A trial of a plain study."""


class _SharedDSTNTrial(_SharedValues, DSTNTrial):
    """A trial of a Δ-STN study."""


def _shared(trial: optuna.Trial, group: Any, *, is_first: bool) -> Any:
    """Return a trial that has the values of the first process."""
    kind: Any = _SharedDSTNTrial if isinstance(trial, DSTNTrial) else _SharedTrial
    shared = kind.__new__(kind)
    shared.__dict__ = trial.__dict__  # the study finishes the one, and the Tuner knows the other
    shared.process_group, shared.is_first = group, is_first
    return shared


def _local_trial(facts: dict[str, Any]) -> Any:
    """Return a trial like that of the first process, of a study in memory."""
    storage = InMemoryStorage()
    name = storage.get_study_name_from_id(storage.create_new_study(facts["directions"]))
    sampler = optuna.samplers.RandomSampler()  # suggests nothing
    if "config" in facts:
        trial: Any = DSTNStudy(name, storage, sampler, config=facts["config"]).ask()
        trial.enqueued_names = facts["enqueued"]
    else:
        trial = optuna.Study(name, storage, sampler).ask()
    trial._cached_frozen_trial = copy.copy(trial._cached_frozen_trial)
    trial._cached_frozen_trial.number = facts["number"]  # which may seed the random numbers
    return trial
