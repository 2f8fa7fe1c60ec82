"""Optuna's face: studies and trials whose numbers remember their names.

A ``DSTNStudy`` is an ``optuna.Study`` that hands a ``DSTNTrial`` to the objective. A suggested
number stays *deferred* while it may still be tuned: the storage cannot overwrite a parameter, so
the trial writes it once, when its value is final. The method's settings (``TunerConfig``) live here
too, as a sampler's settings live on an Optuna study.

In: the user's calls of Optuna. Out: tracked numbers, their ranges and start values, and a place for
their final values.

Imports go down: this folder knows ``hyperparameter``; it knows nothing of torch, and ``training``
and ``schedule`` import it.
"""
