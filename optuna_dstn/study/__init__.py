"""Studies and trials: Optuna's own, with numbers that a Tuner can tune.

A ``DSTNStudy`` is an ``optuna.Study`` that gives a ``DSTNTrial`` to the objective. Each suggested
float or int is a tracked number. Writing such a number to the storage is *deferred*
(``DeferredParameters``): a storage cannot overwrite a parameter, so the trial writes it once, when
its value is final. Meanwhile ``StorageWithDeferred`` shows it with its start value. The settings of
the method (``TunerConfig``) live here too, as the settings of a sampler live on an Optuna study.

In: the user's calls of Optuna. Out: tracked numbers with their ranges and start values, and a place
for their final values.

Imports go down: this folder knows ``hyperparameter`` only, and nothing of torch. ``training`` and
``schedule`` import it.
"""
