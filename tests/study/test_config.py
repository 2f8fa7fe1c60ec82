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
        ("warmup_steps", 0),
        ("warmup_steps", None),
        ("hyper_lr", None),
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
