"""A wrong argument is an error at once, which names the culprit and says what to write."""

from __future__ import annotations

from typing import Any

from _mistakes import Case
import optuna
import pytest

import optuna_dstn
from optuna_dstn import TunerConfig, choice, hyperparameter_schedule, replay_schedule, wrap
from optuna_dstn.schedule._schedule import Schedule
from optuna_dstn.visualization import plot_comparison, plot_hyperparameter_schedule


STUDY: Any = optuna.create_study()
TRIAL: Any = optuna.create_trial(value=0.0)
OPTIONS = {"none": None, "double": lambda x: 2 * x}


def tuned_study() -> optuna.Study:
    schedule = Schedule()
    schedule.append(1, 0.5, {"dropout": 0.1}, {"dropout": 1.0})
    study = optuna.create_study()
    study.add_trial(
        optuna.create_trial(
            value=0.5,
            params={"dropout": 0.1},
            distributions={"dropout": optuna.distributions.FloatDistribution(0.0, 0.9)},
            user_attrs=schedule.attributes(),
        )
    )
    return study


TUNED: Any = tuned_study()

CHOICES = ("method", "response", "perturbation")
WHOLE = ("response_interval", "train_steps", "valid_steps")
RATES = ("response_lr", "hyper_lr", "scale_lr", "initial_scale")
SETTINGS = (
    *((name, "bayes") for name in CHOICES),
    *((name, value) for name in WHOLE for value in (0, 1.0, True)),
    ("warmup_steps", -1),
    *((name, value) for name in RATES for value in (0.0, -1.0, float("inf"), float("nan"))),
    *(("response_fraction", value) for value in (0.0, 1.5, float("nan"))),
    *(("entropy_weight", value) for value in (-0.1, float("inf"))),
)

CASES: dict[str, Case] = {
    **{
        f"{name} is {value!r}": (
            lambda name=name, value=value: TunerConfig(**{name: value}),
            ValueError,
            rf"TunerConfig\({name}={value!r}\)(: give .*| is not known\. Known: .*)",
        )
        for name, value in SETTINGS
    },
    "stn with gates": (
        lambda: TunerConfig(method="stn", response="gated"),
        ValueError,
        r"method='stn', response='gated'.*Take response='structured' or 'full'",
    ),
    "config is a text": (
        lambda: optuna_dstn.create_study(config="stn"),  # type: ignore[arg-type]
        TypeError,
        r"config='stn'.*TunerConfig\(method=",
    ),
    "tune_scale is a text": (
        lambda: TunerConfig(tune_scale="no"),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(tune_scale='no'\): give True or False",
    ),
    "hyper_lr is a text": (
        lambda: TunerConfig(hyper_lr="0.1"),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(hyper_lr='0\.1'\): give a positive number",
    ),
    "scale_lr is None": (
        lambda: TunerConfig(scale_lr=None),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(scale_lr=None\): give a positive number",
    ),
    "response_lr is a text": (
        lambda: TunerConfig(response_lr="5e-3"),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(response_lr='5e-3'\): give a positive number, or None",
    ),
    "response_fraction is a text": (
        lambda: TunerConfig(response_fraction="half"),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(response_fraction='half'\): give the part of a batch, a number above 0",
    ),
    "entropy_weight is None": (
        lambda: TunerConfig(entropy_weight=None),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(entropy_weight=None\): give a number, at least 0",
    ),
    "warmup_steps is a text": (
        lambda: TunerConfig(warmup_steps="10"),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(warmup_steps='10'\): give a whole number, at least 0",
    ),
    "method is None": (
        lambda: TunerConfig(method=None),  # type: ignore[arg-type]
        ValueError,
        r"TunerConfig\(method=None\) is not known\. Known: 'delta-stn', 'centered-stn', 'stn'",
    ),
    "config is a dictionary": (
        lambda: optuna_dstn.create_study(config={"method": "stn"}),  # type: ignore[arg-type]
        TypeError,
        r"config=\{'method': 'stn'\}: give a TunerConfig",
    ),
    "wrap of a text": (
        lambda: wrap("digits"),  # type: ignore[arg-type]
        TypeError,
        r"wrap takes an optuna\.Study, not 'digits': .*load_study",
    ),
    "wrap of None": (
        lambda: wrap(None),  # type: ignore[arg-type]
        TypeError,
        r"wrap takes an optuna\.Study, not None",
    ),
    "wrap of a trial": (
        lambda: wrap(TRIAL),
        TypeError,
        r"wrap takes an optuna\.Study, not a FrozenTrial",
    ),
    "choice without a trial": (
        lambda: choice(None, "augment", OPTIONS),  # type: ignore[arg-type]
        TypeError,
        r"choice got None for a trial: .*choice\(trial, 'augment', options\)",
    ),
    "choice of a study": (
        lambda: choice(STUDY, "augment", OPTIONS),
        TypeError,
        r"choice got a Study for a trial",
    ),
    "schedule of a study": (
        lambda: hyperparameter_schedule(STUDY),
        TypeError,
        r"hyperparameter_schedule takes a trial, not a Study: .*study\.best_trial",
    ),
    "schedule of None": (
        lambda: hyperparameter_schedule(None),  # type: ignore[arg-type]
        TypeError,
        "hyperparameter_schedule takes a trial, not None",
    ),
    "replay of a study": (
        lambda: replay_schedule(lambda trial: 0.0, STUDY),
        TypeError,
        r"got a Study for a schedule: give a trial that .*study\.best_trial",
    ),
    "plot of a trial": (
        lambda: plot_hyperparameter_schedule(TRIAL),
        TypeError,
        r"takes a study, not a FrozenTrial.*\(study, trials=\[trial\.number\]\)",
    ),
    "plot of a misspelt parameter": (
        lambda: plot_hyperparameter_schedule(TUNED, params=["dropuot"]),
        ValueError,
        r"params=\.\.\.\): 'dropuot' has no schedule .*Tuned by gradient: 'dropout'",
    ),
    "plot of a text": (
        lambda: plot_hyperparameter_schedule(TUNED, params="dropout"),
        TypeError,
        r"params='dropout'\): give a list of names, \['dropout'\]",
    ),
    "comparison of a trial": (
        lambda: plot_comparison(TRIAL),
        TypeError,
        "plot_comparison takes studies, not a FrozenTrial",
    ),
    "comparison of names": (
        lambda: plot_comparison({"TPE": ["tpe_0"]}),  # type: ignore[dict-item]
        TypeError,
        "plot_comparison takes studies, not 'tpe_0'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
