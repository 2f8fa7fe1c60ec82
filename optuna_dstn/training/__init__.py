"""The Tuner, and the ways of training that it chooses from.

Under a trial of a Δ-STN study a ``Tuner`` trains weights, response and hyperparameters in turn
(``CenteredSTN``, ``DeltaSTN``, ``STN``); under any other trial it trains plainly, and under a
replay it follows a schedule. ``fit`` is the usual loop around it.

In: a trial, a model, its optimizer, a loss and batches. Out: a trained model, reports, and the
tuned values in the trial.

Imports go down: this folder knows all others but ``augmentation`` and ``visualization``.
"""
