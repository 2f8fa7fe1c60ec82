"""``Trainer.hyperparameter_search``, in trials that tune by gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from transformers import Trainer
from transformers.trainer_pt_utils import LabelSmoother

from optuna_dstn.study._patched import patched_optuna
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._tuner import Tuner


class TunedSearch(Trainer):
    """A Trainer that searches in Δ-STN studies, for ``TunerMixin``, which tunes in their trials.

    Attributes:
        tuner: The Tuner of the trial under way.
    """

    tuner: Tuner | None
    _tuned_trial: optuna.trial.BaseTrial | None
    hp_space: Callable[[optuna.Trial], dict[str, Any]]

    def hyperparameter_search(
        self,
        hp_space: Callable[[optuna.Trial], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str = "minimize",
        backend: Any = None,
        hp_name: Callable[[optuna.Trial], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Search as ``Trainer.hyperparameter_search`` does, in trials that tune by gradient.

        ``hp_space`` may suggest TrainingArguments, and ``model_init(trial)`` numbers of the model.
        Numbers that reach torch in training are tuned inside each trial, from their suggested
        value; the study's sampler searches over the rest. The value of a trial is that of its best
        evaluation.

        Example:
            >>> trainer = TunedTrainer(  # doctest: +SKIP
            ...     args=args, model_init=model_init, train_dataset=train, eval_dataset=valid
            ... )
            >>> best = trainer.hyperparameter_search(hp_space, n_trials=1)  # doctest: +SKIP
            >>> best.hyperparameters  # doctest: +SKIP

        Args:
            hp_space: Returns the suggested TrainingArguments, by name.
            compute_objective: Returns the value of a trial from the metrics of an evaluation.
            n_trials: The number of trials.
            direction: ``"minimize"`` or ``"maximize"`` the value.
            backend: ``"optuna"``, or ``None`` for the same.
            hp_name: Returns the name of a trial's folder.
            **kwargs: Keywords of :func:`optuna_dstn.create_study`, ``config`` included, and
                ``timeout``, ``n_jobs`` and ``gc_after_trial`` of ``optimize``.

        Returns:
            The ``BestRun`` of transformers: ``run_id``, ``objective`` and ``hyperparameters``.

        Raises:
            ValueError: If the backend is another one.
        """
        if backend not in (None, "optuna"):
            raise ValueError(
                f"hyperparameter_search(backend={backend!r}): tuning by gradient needs the trials "
                'of Optuna. Give backend="optuna", or search by a Trainer without TunerMixin.'
            )
        trial = self._tuned_trial
        try:
            with patched_optuna():
                return super().hyperparameter_search(
                    hp_space, compute_objective, n_trials, direction, "optuna", hp_name, **kwargs
                )
        finally:
            self._tuned_trial = trial

    def _hp_search_setup(self, trial: Any) -> None:
        """Let the TrainingArguments hold the numbers themselves, which the Trainer makes plain."""
        if self.hp_search_backend is None or trial is None:
            super()._hp_search_setup(trial)
            return
        self._tuned_trial = trial
        suggested: dict[str, Any] = {}
        hp_space = self.hp_space

        def remembered(trial: optuna.Trial) -> dict[str, Any]:
            suggested.update(hp_space(trial))
            return suggested

        self.hp_space = remembered
        try:
            super()._hp_search_setup(trial)
        finally:
            self.hp_space = hp_space
        for name, number in suggested.items():
            if isinstance(getattr(self.args, name, None), float):
                setattr(self.args, name, number)
        if "label_smoothing_factor" in suggested:
            self.label_smoother = LabelSmoother(epsilon=self.args.label_smoothing_factor)

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        super()._report_to_hp_search(trial, step, metrics)
        if isinstance(trial, DSTNTrial) and self.tuner is not None:
            self.objective = self.tuner.best_value
