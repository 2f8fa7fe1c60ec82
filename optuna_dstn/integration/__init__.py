"""The Tuner inside training frameworks: one module for each framework, which must be installed.

Each module puts the parts of a Tuner's step (``forward``, ``after_backward``, ``after_step``) where
the framework takes its step. Clipping, accumulation, schedulers, callbacks and checkpoints stay the
framework's own. ``import optuna_dstn`` imports none of these modules.

In: the framework's trainer, and a trial. Out: the same trainer, which tunes hyperparameters.

Imports go down: ``training`` is below; nothing in the package imports this folder.
"""
