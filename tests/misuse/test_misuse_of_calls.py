"""A call of the Tuner at the wrong time, or a wrong argument of fit: an error says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _logged import warnings_of
from _mistakes import Case, Given, fit
from _small_net import BATCH, SOON, drop, loss_fn, make_net
import optuna
import pytest
from torch.optim.lr_scheduler import StepLR

import optuna_dstn
from optuna_dstn import Tuner


def schedules_other() -> None:
    Given().fit(scheduler=StepLR(Given().optimizer, 1))


def schedules_optimizer() -> None:
    given = Given()
    given.fit(scheduler=given.optimizer)


def after_the_end(call: Callable[[Tuner], Any]) -> None:
    study = optuna_dstn.create_study(config=SOON)
    given = Given(study=study)
    tuner = given.tuner()
    tuner.step(BATCH)
    study.tell(given.trial, 0.5)
    call(tuner)


def resumed(**changed: Any) -> None:
    state = Given().tuner().state_dict()
    Given().tuner().load_state_dict({**state, **changed})


T, V = TypeError, ValueError

CASES: dict[str, Case] = {
    "best_value before evaluate": (
        lambda: Given().tuner().best_value,
        RuntimeError,
        r"Nothing was evaluated yet.*call Tuner\.evaluate\(\) first",
    ),
    "load_best before evaluate": (
        lambda: Given().tuner().load_best(),
        RuntimeError,
        r"Nothing was evaluated yet.*call Tuner\.evaluate\(\) first",
    ),
    "summary before step": (
        lambda: Given().tuner().summary(),
        RuntimeError,
        r"call Tuner\.step\(batch\) before Tuner\.summary\(\)",
    ),
    "step after the end": (
        lambda: after_the_end(lambda tuner: tuner.step(BATCH)),
        RuntimeError,
        r"Tuner\.step\(batch\) after the end of trial 0: .*before study\.tell",
    ),
    "evaluate after the end": (
        lambda: after_the_end(lambda tuner: tuner.evaluate()),
        RuntimeError,
        r"Tuner\.evaluate\(\) after the end of trial 0: .*before study\.tell",
    ),
    "state is empty": (
        lambda: Given().tuner().load_state_dict({}),
        V,
        r"The state has no version, .*Give Tuner\.load_state_dict\(\.\.\.\) what Tuner\.state_dict",
    ),
    "state of the model": (
        lambda: Given().tuner().load_state_dict(Given().model.state_dict()),
        V,
        r"The state has no version, .*what Tuner\.state_dict\(\)",
    ),
    "state of another version": (lambda: resumed(version=9), V, "has version 9, .*same release"),
    "state of another method": (
        lambda: resumed(method="stn"),
        V,
        "trains by 'stn', and this one trains by 'delta-stn'.*same TunerConfig",
    ),
    **{
        f"{name} is {number!r}": (
            fit(**{name: number}),
            V,
            rf"fit\({name}={number!r}\): give a whole number, at least 1",
        )
        for name in ("epochs", "patience")
        for number in (2.5, "3", 0, -1, True)
    },
    "scheduler is a class": (
        fit(scheduler=StepLR),
        T,
        r"fit\(scheduler=\.\.\.\) got the class StepLR: .*StepLR\(optimizer, step_size=10\)",
    ),
    "scheduler is a function": (
        fit(scheduler=lambda optimizer: StepLR(optimizer, 1)),
        T,
        r"got a function: give a scheduler made from the optimizer",
    ),
    "scheduler is the optimizer": (schedules_optimizer, T, "got a SGD: give a scheduler made from"),
    "scheduler of another optimizer": (
        schedules_other,
        V,
        "a scheduler of another optimizer.*make the scheduler from the optimizer that fit gets",
    ),
    "training loader is empty": (fit(train_loader=[]), V, "no batch in epoch 0.*used up"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_call_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_a_training_that_ends_with_its_warm_up_warns(caplog: pytest.LogCaptureFixture) -> None:
    """100 steps are the warm-up by default, so that nothing is tuned."""
    study = optuna_dstn.create_study()

    def objective(trial: optuna.Trial) -> float:
        model, optimizer = make_net(drop)(trial)
        tuner = Tuner(trial, model, optimizer, loss_fn, [BATCH])
        for _ in range(100):
            tuner.step(BATCH)
        return tuner.evaluate()

    [warning] = warnings_of(caplog, lambda: study.optimize(objective, n_trials=1))
    assert "ended after 100 steps, before its first step on the hyperparameters: h kept" in warning
    assert "they move after 100 steps: say how many steps of the optimizer it takes" in warning
