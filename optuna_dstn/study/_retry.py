"""Retrying the trials of processes that were killed."""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

from optuna_dstn.study._attributes import START


def retry_interrupted(study: optuna.Study) -> int:
    """Let the next trials of a study retry those that killed processes have left running.

    Such a trial fails, and a new one with its parameters waits in the queue. With the
    ``checkpoint`` of :func:`optuna_dstn.fit` or with :class:`optuna_dstn.Checkpoint` the new trial
    goes on where the killed one was. Any storage will do.

    Call this when no other process works on the study: it cannot tell which processes live. A
    storage with a heartbeat can, and retries by itself
    (``optuna.storages.RetryHeartbeatStaleTrialCallback``).

    Example:
        >>> study = optuna_dstn.create_study(  # doctest: +SKIP
        ...     study_name="digits", storage="sqlite:///digits.db", load_if_exists=True
        ... )
        >>> optuna_dstn.retry_interrupted(study)  # doctest: +SKIP
        >>> study.optimize(objective, n_trials=1)  # doctest: +SKIP

    Args:
        study: A study, of Δ-STN or any other.

    Returns:
        The number of trials that wait for their retry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    trials = study.get_trials()
    histories = [trial.system_attrs.get("retry_history", []) for trial in trials]
    retried = {number for history in histories for number in history}
    interrupted = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in interrupted:
        # In this order, and once: this process may be killed between the two lines.
        if trial.number not in retried:
            _drop_tuned_values(trial)
            retry(study, trial)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(interrupted)


def _drop_tuned_values(trial: FrozenTrial) -> None:
    """Leave the tuned values out of a trial, which it may have stored just before it was killed.

    A storage could not overwrite them in the retry.
    """
    for name in trial.user_attrs.get(START, {}):
        trial.params.pop(name, None)
        trial.distributions.pop(name, None)
