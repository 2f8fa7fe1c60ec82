"""Population-based training (Jaderberg et al., 2017), decided by Syne Tune's scheduler.

All members are trained in this process, in turn: an interval each, then the next round. Between two
rounds the scheduler, asked as Syne Tune's own backends ask it, replaces the worst by copies of the
best with perturbed hyperparameters. A replaced member is a trial that has ended; its successor is a
new trial, which goes on from a copy of weights, optimizer and schedule, with batches and random
numbers of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import copy
from dataclasses import dataclass
from datetime import datetime
import math
from typing import Any, ClassVar

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial
import pandas as pd
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from comparisons._budget import Budget
from comparisons._search import Advance, Best, Search
from comparisons._tuner import Tuner, UnusableError
from comparisons.problems import Problem, Setup, Trained
import optuna_dstn


# Names of what is reported to the scheduler
_EPOCHS = "epochs"
_LOSS = "loss"

# user_attrs of a trial that goes on from another
_PARENT = "parent_trial"
_FIRST_STEP = "first_step"


@dataclass(frozen=True)
class Population(Tuner):
    """Networks that are trained side by side, of which the worst continue as copies of the best.

    Attributes:
        members: How many; so many plain runs does a search cost.
        rounds: How often members are compared in a run, about.
    """

    members: int = 8
    rounds: int = 20

    makes_schedules: ClassVar[bool] = True

    def require_usable(self, problem: Problem | None = None) -> None:
        try:
            super().require_usable(problem)
        except UnusableError as error:
            raise UnusableError(
                f"{error} Of what it brings its scheduler needs little, so this is enough: "
                "pip install --no-deps syne-tune dill."
            ) from None

    def plain_runs(self, trials: int) -> float:
        return self.members

    def search(self, problem: Problem, seed: int, training_seed: int, budget: Budget) -> Search:
        interval = max(1, round(problem.size.epochs / self.rounds))
        return _PopulationSearch(problem, seed, training_seed, self.members, interval)


class _PopulationSearch(Search):
    """A piece is one member's share of a round.

    Args:
        problem: What is tuned.
        seed: Fixes the first hyperparameters, which are those of random search, and what the
            scheduler draws.
        training_seed: Of the first members.
        members: How many.
        interval: Epochs of a round.
    """

    def __init__(
        self, problem: Problem, seed: int, training_seed: int, members: int, interval: int
    ) -> None:
        self._problem = problem
        self._seed = seed
        self._training_seed = training_seed
        self._interval = interval
        self._rounds = math.ceil(problem.size.epochs / interval)
        self._epochs = 0  # of every member
        self._advances = 0
        self._ended: list[FrozenTrial] = []
        self._best_ended: _Member | None = None

        study = optuna.create_study(sampler=RandomSampler(seed=seed))
        self._members = []
        for number in range(members):
            trial = study.ask()
            setup = problem.setup(trial, training_seed, split=seed)
            self._members.append(_Member(number, trial.params, setup, problem.device))
        self._distributions = trial.distributions
        self._decisions = _Decisions(self._distributions, self._members, seed, interval)
        self._turns = deque(self._members)

    def advance(self, on_epoch: Callable[[float], Any] = lambda share: None) -> Advance:
        if not self._turns:
            self._epochs += self._interval
            self._replace_the_worst()
            self._turns.extend(self._members)
        member = self._turns.popleft()
        before = len(member.losses)
        member.train(min(self._interval, self._problem.size.epochs - self._epochs))
        self._advances += 1
        return Advance(member.number, len(member.losses) - before)

    def share(self, seconds: float) -> float:
        return self._advances / (len(self._members) * self._rounds)

    def _replace_the_worst(self) -> None:
        for slot, member in enumerate(self._members):
            replacement = self._decisions.replacement(member, self._epochs)
            if replacement is not None:
                parent, params = replacement
                self._members[slot] = self._successor(parent, params)
                self._end(member)

    def _successor(self, parent: int, params: dict[str, Any]) -> _Member:
        number = len(self._ended) + len(self._members)
        sequence = np.random.SeedSequence([self._training_seed, number])
        setup = self._problem.setup(
            FixedTrial(params), int(sequence.generate_state(1)[0]), split=self._seed
        )
        member = _Member(number, params, setup, self._problem.device)
        member.go_on_from(next(m for m in self._members if m.number == parent))
        self._decisions.add(member)
        return member

    def _end(self, member: _Member) -> None:
        self._ended.append(member.to_trial(self._distributions))
        # Of those that have ended one network is kept at most.
        candidates = [m for m in (self._best_ended, member) if m is not None]
        self._best_ended = _best_of(candidates)

    def trials(self) -> list[FrozenTrial]:
        running = [member.to_trial(self._distributions) for member in self._members]
        return sorted([*self._ended, *running], key=lambda trial: trial.number)

    def best(self) -> Best | None:
        members = [m for m in (self._best_ended, *self._members) if m is not None]
        best = _best_of(members)
        return None if best is None else Best(best.number, best.trained())

    def schedule(self, trial: FrozenTrial) -> pd.DataFrame:
        """Return the hyperparameters of the trial and of those whose copy it goes on from."""
        trials = self.trials()
        rows: dict[int, dict[str, Any]] = {}
        while True:
            step = trial.user_attrs.get(_FIRST_STEP, 0)
            rows.setdefault(step, {"step": step, **trial.params})
            if _PARENT not in trial.user_attrs:
                return pd.DataFrame([*reversed(rows.values())])
            trial = trials[trial.user_attrs[_PARENT]]


class _Member:
    """A network in training: a trial of the search.

    Attributes:
        number: Of the trial.
        params: Its hyperparameters.
        losses: Validation losses, by epoch.
        has_diverged: Whether its training cannot go on.
    """

    def __init__(self, number: int, params: dict[str, Any], setup: Setup, device: str) -> None:
        self.number = number
        self.params = params
        self.losses: dict[int, float] = {}
        self.has_diverged = False
        self._setup = setup
        options = dict(setup.options)
        self._scheduler = options.pop("scheduler", None)
        options.pop("patience", None)  # who stops is the population's matter
        self._tuner = optuna_dstn.Tuner(
            FixedTrial(params),
            setup.model,
            setup.optimizer,
            setup.loss_fn,
            setup.valid_loader,
            valid_loss_fn=setup.valid_loss_fn,
            **options,
        )
        self._epoch = 0
        self._steps = 0
        self._attributes: dict[str, Any] = {}
        self._started = self._trained_until = datetime.now()
        # Members take turns; each goes on with its own random numbers, as in a run of its own.
        self._randomness = _Randomness(device)

    def go_on_from(self, parent: _Member) -> None:
        """Take over what the parent's training has come to, and keep the own hyperparameters."""
        mine, theirs = self._setup, parent._setup
        mine.model.load_state_dict(theirs.model.state_dict())
        # Loading shares tensors of the state where it can, and takes the parent's weight decay.
        state = copy.deepcopy(theirs.optimizer.state_dict())
        groups = mine.optimizer.state_dict()["param_groups"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(copy.deepcopy(parent._scheduler.state_dict()))
            for group, their_group in zip(groups, state["param_groups"], strict=True):
                group["lr"] = their_group["lr"]
        mine.optimizer.load_state_dict({**state, "param_groups": groups})
        self._tuner.load_state_dict(copy.deepcopy({**parent._tuner.state_dict(), "best": None}))
        self._epoch = parent._epoch
        self._steps = parent._steps
        self._attributes = {
            _PARENT: parent.number,
            "first_epoch": parent._epoch,
            _FIRST_STEP: parent._steps,
        }

    @property
    def loss(self) -> float:
        """Its latest validation loss; infinite where it has diverged."""
        return math.inf if self.has_diverged else self.losses[self._epoch - 1]

    @property
    def best_loss(self) -> float:
        """Its best validation loss, of those that it reached itself."""
        return self._tuner.best_value

    def train(self, epochs: int) -> None:
        """Train for some epochs, unless it has diverged."""
        self._randomness.restore()
        try:
            for _ in range(0 if self.has_diverged else epochs):
                self._train_one_epoch()
        except optuna_dstn.TrainingDivergedError:
            self.has_diverged = True
        self._randomness.save()
        self._trained_until = datetime.now()

    def _train_one_epoch(self) -> None:
        for batch in self._setup.train_loader:
            self._tuner.step(batch)
            self._steps += 1
        loss = self._tuner.evaluate()
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()
        self.losses[self._epoch] = loss
        self._epoch += 1

    def trained(self) -> Trained:
        """Return its network at its best evaluation."""

        def test_loss() -> float:
            self._tuner.load_best()
            return self._setup.test_loss()

        return Trained(self.best_loss, test_loss)

    def to_trial(self, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
        """Return it as Optuna keeps trials."""
        trial = create_trial(
            state=TrialState.FAIL if self.has_diverged else TrialState.COMPLETE,
            value=None if self.has_diverged else self.best_loss,
            params=self.params,
            distributions=distributions,
            intermediate_values=self.losses,
            user_attrs=self._attributes,
        )
        trial.number = self.number
        trial.datetime_start, trial.datetime_complete = self._started, self._trained_until
        return trial


def _best_of(members: list[_Member]) -> _Member | None:
    complete = [member for member in members if not member.has_diverged]
    return min(complete, key=lambda member: (member.best_loss, member.number), default=None)


class _Randomness:
    """The state of torch's random numbers, for one of several that use them in turn."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self.save()

    def save(self) -> None:
        """Note the present state."""
        self._state = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda_state = torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        """Go back to the state noted last."""
        torch.set_rng_state(self._state)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_state, self._device)


# -- Syne Tune -----------------------------------------------------------------------------------


class _Decisions:
    """Syne Tune's scheduler, told of members and asked for their replacements."""

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        members: list[_Member],
        seed: int,
        interval: int,
    ) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.optimizer.schedulers.pbt import PopulationBasedTraining

        self._make_trial = Trial
        self._scheduler = PopulationBasedTraining(
            config_space={name: _domain(d) for name, d in distributions.items()},
            metric=_LOSS,
            time_attr=_EPOCHS,
            max_t=math.inf,  # how long is trained is decided here
            population_size=len(members),
            perturbation_interval=interval,
            random_seed=seed,
            # Its own first suggestions come from NumPy's global generator.
            searcher_kwargs={"points_to_evaluate": [member.params for member in members]},
        )
        self._trials: dict[int, Any] = {}
        for member in members:
            self._scheduler.suggest()
            self.add(member)

    def add(self, member: _Member) -> None:
        """Tell of a new member."""
        trial = self._make_trial(member.number, dict(member.params), datetime.now())
        self._trials[member.number] = trial
        self._scheduler.on_trial_add(trial)

    def replacement(self, member: _Member, epochs: int) -> tuple[int, dict[str, Any]] | None:
        """Tell of a result; return whose copy continues instead, and with which hyperparameters."""
        decision = self._scheduler.on_trial_result(
            self._trials[member.number], {_EPOCHS: epochs, _LOSS: member.loss}
        )
        if decision == "CONTINUE":
            return None
        suggestion = self._scheduler.suggest()
        return suggestion.checkpoint_trial_id, suggestion.config


def _domain(distribution: BaseDistribution) -> Any:
    """Return Syne Tune's counterpart of a range of Optuna's."""
    from syne_tune import config_space as spaces

    match distribution:
        case CategoricalDistribution(choices=choices):
            return spaces.choice(list(choices))
        case FloatDistribution(low=low, high=high, log=True):
            return spaces.loguniform(low, high)
        case FloatDistribution(low=low, high=high, step=None):
            return spaces.uniform(low, high)
        case IntDistribution(low=low, high=high, log=True):
            return spaces.lograndint(low, high)
        case IntDistribution(low=low, high=high, step=1):
            return spaces.randint(low, high)
        case FloatDistribution(low=low, high=high, step=float(step)):
            return spaces.finrange(low, high, 1 + round((high - low) / step))
        case IntDistribution(low=low, high=high, step=step):
            return spaces.finrange(low, high, 1 + (high - low) // step, cast_int=True)
    raise TypeError(f"Population-based training has no counterpart of {distribution}.")
