"""A wrong argument of a penalty, a choice, a schedule or a figure is named, with a way out."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from _mistakes import Case
import optuna
import pandas as pd
import pytest
import torch
from torch import nn

import optuna_dstn
from optuna_dstn import choice, l1_penalty, l2_penalty, register_rule, replay_schedule
from optuna_dstn.augmentation import ColorJitter, Cutout, RandomHorizontalFlip
from optuna_dstn.visualization import plot_comparison


LINEAR = nn.Linear(2, 2)
FIXED = optuna.trial.FixedTrial({})
T, V = TypeError, ValueError


def finished(**options: Any) -> optuna.Study:
    study = optuna.create_study(**options)
    study.optimize(lambda trial: 1.0, n_trials=1)
    return study


def suggested_before() -> None:
    trial = optuna_dstn.create_study().ask()
    trial.suggest_categorical("c", ["a", "b"])
    choice(trial, "c", {"a": None, "b": None})


def replays(columns: dict[Any, list[Any]]) -> Callable[[], Any]:
    frame = pd.DataFrame(columns)
    return lambda: replay_schedule(lambda trial: 0.0, frame)


PENALTIES = {
    "a module": (LINEAR, 0.1, T, r"not a Linear: give it the module's \.parameters\(\)"),
    "pairs with names": (
        [*LINEAR.named_parameters()],
        0.1,
        T,
        r"one is a tuple\. Give it model\.parameters\(\), not model\.named_parameters",
    ),
    "a state_dict": (LINEAR.state_dict(), 0.1, T, "one is a str.*not .*a state_dict"),
    "a list for a coefficient": (0.1, [LINEAR.bias], T, "coefficient of .* is a list: give a num"),
    "a number": (0.1, 0.1, T, r"not a float: l._penalty\(model\.parameters\(\), h\)"),
    "no parameters": ([], 0.1, V, r"got no parameters.*call model\.parameters\(\) each time"),
    "a tensor for a coefficient": (LINEAR.bias, torch.tensor(0.1), T, "is a Tensor: give a number"),
    "None for a coefficient": (LINEAR.bias, None, T, "is a NoneType: give a number"),
    "a coefficient below zero": (LINEAR.bias, -0.1, V, "is -0.1: .* from 0 upwards"),
    "nan for a coefficient": (LINEAR.bias, math.nan, V, "is nan: .* from 0 upwards"),
    "computed parameters": (
        LINEAR.weight[:, 1],
        0.1,
        V,
        r"of shape \(2,\) was computed from others.*For a penalty on activations return one loss",
    ),
}
FRAMES = {
    "no step": ({"epoch": [0], "rate": [0.1]}, r"no column 'step' \(columns: epoch, rate\)"),
    "no hyperparameter": ({"step": [0], "value": [0.1]}, "1 rows and the columns step, value"),
    "no row": ({"step": [], "rate": []}, "0 rows and the columns step, rate"),
    "the same column twice": (
        {"step": [0], "rate": [0.1], 1: [0.1], "1": [0.1]},
        "columns step, rate, 1, 1: ",
    ),
    "unsorted": ({"step": [0, 5, 3], "rate": [0.1, 0.2, 0.3]}, r"row at step 3\..*sort_values"),
    "a step twice": (
        {"step": [0, 3, 3], "rate": [0.1, 0.2, 0.3]},
        r"row at step 3\..*drop_duplicates",
    ),
    "a step below zero": ({"step": [-1], "rate": [0.1]}, r"row at step -1\."),
    "half a step": ({"step": [0.5], "rate": [0.1]}, r"row at step 0\.5\."),
    "nan for a step": ({"step": [math.nan], "rate": [0.1]}, "'step' of the schedule is nan"),
    "infinity for a step": ({"step": [math.inf], "rate": [0.1]}, "'step' of the schedule is inf"),
    "a gap": (
        {"step": [0, 4], "rate": [0.1, None]},
        r"'rate' of the schedule is nan at step 4.*ffill",
    ),
    "texts": (
        {"step": [0], "augment": ["noise"]},
        r"'augment' of the schedule holds .*get_dummies",
    ),
}

CASES: dict[str, Case] = {
    **{
        f"{penalty.__name__}: {name}": (
            lambda penalty=penalty, given=given: penalty(*given),
            error,
            f"(?=.*{penalty.__name__}).*{message}",
        )
        for penalty in (l1_penalty, l2_penalty)
        for name, (*given, error, message) in PENALTIES.items()
    },
    **{
        f"schedule: {name}": (replays(columns), V, message)
        for name, (columns, message) in FRAMES.items()
    },
    "schedule: a dictionary": (
        lambda: replay_schedule(lambda trial: 0.0, {"step": [0]}),  # type: ignore[arg-type]
        T,
        r"got a dict for a schedule.*pandas\.DataFrame",
    ),
    "schedule: an objective without a Tuner": (
        lambda: replay_schedule(
            lambda trial: trial.suggest_float("x", 0.0, 0.9), pd.DataFrame({"step": [0], "x": [0]})
        ),
        V,
        r"made no optuna_dstn\.Tuner with its trial",
    ),
    "choice: a list": (
        lambda: choice(FIXED, "c", ["a", "b"]),  # type: ignore[arg-type]
        T,
        "takes a dictionary of functions by name",
    ),
    "choice: options by number": (
        lambda: choice(FIXED, "c", {1: None, 2: None}),  # type: ignore[dict-item]
        T,
        "takes a dictionary of functions by name",
    ),
    "choice: a number for a function": (
        lambda: choice(FIXED, "c", {"a": None, "b": 3}),  # type: ignore[dict-item]
        T,
        "Option 'b' of choice 'c' is a int.*suggest_categorical",
    ),
    "choice: one option": (
        lambda: choice(FIXED, "c", {"a": None}),
        V,
        "'c' needs two options or more",
    ),
    "choice: suggested before": (
        suggested_before,
        V,
        "'c' was suggested before, as a plain category: give the choice a name of its own",
    ),
    "comparison: no finished trial": (
        lambda: plot_comparison([finished(), optuna.create_study()]),
        V,
        "no finished trial",
    ),
    "comparison: two directions": (
        lambda: plot_comparison([finished(), finished(direction="maximize")]),
        V,
        "maximize, minimize",
    ),
    "comparison: no study": (lambda: plot_comparison([]), V, "have none"),
    "comparison: no time": (
        lambda: plot_comparison([finished()], plain_run_seconds=0),
        V,
        "plain_run_seconds=0",
    ),
    "rule: a text": (
        lambda: register_rule("relu"),  # type: ignore[arg-type]
        T,
        "takes a function or a class, not 'relu'",
    ),
    "Cutout: a fraction": (
        lambda: Cutout(1, 1.5),  # type: ignore[arg-type]
        T,
        r"Cutout\(length=.*whole number.*suggest_int",
    ),
    "Cutout: less than nothing": (lambda: Cutout(-1, 1), V, r"Cutout\(holes=.*\[0, inf\)"),
    "ColorJitter: a range": (
        lambda: ColorJitter(hue=(0.1, 0.2)),  # type: ignore[arg-type]
        T,
        r"ColorJitter\(hue=...\) takes a number.*not a tuple",
    ),
    "ColorJitter: nothing": (ColorJitter, V, "one of brightness, contrast, saturation, hue"),
    "flip: above one": (
        lambda: RandomHorizontalFlip(1.1),
        V,
        r"RandomHorizontalFlip\(probability=.*give a number in \[0, 1\]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_of_a_tool_is_named(name: str) -> None:
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()
