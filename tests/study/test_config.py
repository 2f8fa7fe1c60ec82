"""A setting out of its range is an error at once, which names the setting."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from optuna_dstn import TunerConfig


CHOICES = ("method", "response", "perturbation")
WHOLE = ("response_interval", "train_steps", "valid_steps")
RATES = ("response_lr", "hyper_lr", "scale_lr", "initial_scale")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "bayes") for name in CHOICES),
        *((name, value) for name in WHOLE for value in (0, 1.0, True)),
        ("warmup_steps", -1),
        *((name, value) for name in RATES for value in (0.0, -1.0, float("inf"), float("nan"))),
        *(("response_fraction", value) for value in (0.0, 1.5, float("nan"))),
        *(("entropy_weight", value) for value in (-0.1, float("inf"))),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"TunerConfig\({name}={value!r}\)"):
        TunerConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warmup_steps", 0),
        ("response_lr", None),
        ("response_fraction", 1.0),
        ("entropy_weight", 0.0),
        *((name, 1) for name in WHOLE),
    ],
)
def test_the_ends_of_a_range_are_in_it(name: str, value: Any) -> None:
    assert getattr(TunerConfig(**{name: value}), name) == value


def test_every_setting_that_has_a_range_is_checked() -> None:
    checked = {*CHOICES, *WHOLE, *RATES, "warmup_steps", "response_fraction", "entropy_weight"}
    assert checked | {"tune_scale"} == {field.name for field in dataclasses.fields(TunerConfig)}
