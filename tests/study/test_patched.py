"""``patched_optuna``, for code that calls ``optuna.create_study`` itself."""

from __future__ import annotations

import optuna
import pytest

import optuna_dstn


def test_studies_made_inside_are_tuned_and_others_are_not() -> None:
    config = optuna_dstn.TunerConfig(warmup_steps=7)
    storage = optuna.storages.InMemoryStorage()
    originals = optuna.create_study, optuna.load_study, optuna.study.create_study
    with optuna_dstn.patched_optuna(config):
        study = optuna.create_study(direction="maximize", storage=storage, study_name="s")
        same = optuna.load_study(study_name="s", storage=storage)
        other = optuna.study.create_study()
        own = optuna.create_study(config=optuna_dstn.TunerConfig(warmup_steps=3))  # type: ignore[call-arg]

    for made in (study, same, other):
        assert isinstance(made, optuna_dstn.DSTNStudy)
        assert made.config == config
    assert own.config.warmup_steps == 3  # type: ignore[attr-defined]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert originals == (optuna.create_study, optuna.load_study, optuna.study.create_study)
    assert type(optuna.create_study()) is optuna.Study


def test_our_own_functions_work_inside() -> None:
    with optuna_dstn.patched_optuna(), optuna_dstn.patched_optuna():
        assert isinstance(optuna_dstn.create_study(), optuna_dstn.DSTNStudy)


def test_our_functions_in_the_place_of_optunas_do_not_call_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optuna, "create_study", optuna_dstn.create_study)
    assert isinstance(optuna.create_study(), optuna_dstn.DSTNStudy)


def test_an_error_ends_the_patch() -> None:
    original = optuna.create_study
    with pytest.raises(ZeroDivisionError), optuna_dstn.patched_optuna():
        _ = 1 / 0
    assert optuna.create_study is original
