"""Population-based training (Jaderberg et al., 2017), with the decisions of Syne Tune's scheduler.

This process trains all members in turn, for an interval of epochs each: a round. Between two rounds
the scheduler replaces the worst members by copies of the best ones with perturbed hyperparameters.
A replaced member is a trial that has ended. Its successor is a new trial that continues from a copy
of weights, optimizer and learning rate schedule, with batches and random numbers of its own.
"""

from __future__ import annotations

from collections import deque
import copy
from dataclasses import dataclass
from datetime import datetime
import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial
import pandas as pd
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from comparisons._search import Advance, Best, Search
from comparisons._syne_tune import Scheduler
from comparisons._tuner import Tuner, UnusableError
from comparisons.problems import Problem, Setup, Trained
import optuna_dstn


# user_attrs of a trial that continues from another one
_PARENT = "parent_trial"
_FIRST_STEP = "first_step"


@dataclass(frozen=True)
class Population(Tuner):
    """Networks that are trained side by side; the worst continue as copies of the best.

    Attributes:
        members: How many networks; a search costs as many plain runs.
        rounds: About how often members are compared during a run.
    """

    members: int = 8
    rounds: int = 20

    @property
    def makes_schedules(self) -> bool:
        return True

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

    def search(self, problem: Problem, seed: int, training_seed: int, runs: int) -> Search:
        interval = max(1, round(problem.size.epochs / self.rounds))
        return _PopulationSearch(problem, seed, training_seed, self.members, interval)


class _PopulationSearch(Search):
    """A search whose pieces are one member's share of a round, which is an interval of epochs.

    The first hyperparameters are those of random search with the same seed.
    """

    def __init__(
        self, problem: Problem, seed: int, training_seed: int, members: int, interval: int
    ) -> None:
        self._problem = problem
        self._seed = seed
        self._training_seed = training_seed
        self._interval = interval
        self._pieces = members * math.ceil(problem.size.epochs / interval)
        self._finished_pieces = 0
        self._epochs = 0  # of every member
        self._ended: list[FrozenTrial] = []
        self._best_ended: _Member | None = None

        study = optuna.create_study(sampler=RandomSampler(seed=seed))
        self._members = []
        for number in range(members):
            trial = study.ask()
            setup = problem.setup(trial, training_seed, split=seed)
            self._members.append(_Member(number, trial.params, setup, problem.device))
        self._distributions: dict[str, BaseDistribution] = trial.distributions
        first = {member.number: member.params for member in self._members}
        self._scheduler = Scheduler(self._distributions, first, seed, interval)
        self._turns = deque(self._members)

    def advance(self) -> Advance:
        if not self._turns:
            self._epochs += self._interval
            self._replace_the_worst()
            self._turns.extend(self._members)
        member = self._turns.popleft()
        before = len(member.losses)
        member.train(min(self._interval, self._problem.size.epochs - self._epochs))
        self._finished_pieces += 1
        return Advance(member.number, len(member.losses) - before)

    def share(self) -> float:
        return self._finished_pieces / self._pieces

    def _replace_the_worst(self) -> None:
        for slot, member in enumerate(self._members):
            replacement = self._scheduler.replacement(member.number, self._epochs, member.loss)
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
        member.continue_from(next(m for m in self._members if m.number == parent))
        self._scheduler.add(number, params)
        return member

    def _end(self, member: _Member) -> None:
        self._ended.append(member.to_trial(self._distributions))
        # Only the best network of the ended members stays in memory.
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
        """Return the hyperparameters of the trial and of its ancestors, by training step."""
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
        number: Number of the trial.
        params: Its hyperparameters.
        losses: Validation losses by epoch.
        has_diverged: Whether its training cannot continue.
    """

    def __init__(self, number: int, params: dict[str, Any], setup: Setup, device: str) -> None:
        self.number = number
        self.params = params
        self.losses: dict[int, float] = {}
        self.has_diverged = False
        self._setup = setup
        options = dict(setup.options)
        self._scheduler = options.pop("scheduler", None)
        options.pop("patience", None)  # the population decides which members stop
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
        # Members take turns, but each continues with its own random numbers.
        self._randomness = _Randomness(device)

    def continue_from(self, parent: _Member) -> None:
        """Copy the training state of the parent, and keep the own hyperparameters."""
        mine, theirs = self._setup, parent._setup
        mine.model.load_state_dict(theirs.model.state_dict())
        # Without a copy, both optimizers would share tensors. The parameter groups hold the weight
        # decay, which may be a hyperparameter, so the own groups stay.
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
        """The latest validation loss; infinite if the member has diverged."""
        return math.inf if self.has_diverged else self.losses[self._epoch - 1]

    @property
    def best_loss(self) -> float:
        """The best validation loss since the member began; its parent's losses do not count."""
        return self._tuner.best_value

    def train(self, epochs: int) -> None:
        """Train for some epochs, unless the member has diverged."""
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
        """Return the network at its best evaluation."""

        def test_loss() -> float:
            self._tuner.load_best()
            return self._setup.test_loss()

        return Trained(self.best_loss, test_loss)

    def to_trial(self, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
        """Return the member as a trial of Optuna's."""
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
    """The state of torch's random number generators for one member."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self.save()

    def save(self) -> None:
        """Save the current state of the generators."""
        self._state = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda_state = torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        """Restore the saved state."""
        torch.set_rng_state(self._state)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_state, self._device)
