"""The Tuner, and the three ways of training that it chooses from.

Under a trial of a Δ-STN study, ``SelfTuning`` composes the steps of a method: ``FirstStep`` finds
what is tuned; then the ordinary step on the weights, ``ResponseStep`` (in STN ``JointStep`` for
both) and ``HyperparameterStep`` alternate. They share a ``TrainingContext`` (what the user gave),
the counts in ``Progress`` and, from the first step on, the ``BilevelState`` (λ, σ, Θ). Under any
other trial ``PlainTraining`` is an ordinary loop, and under a replay ``ScheduledTraining`` follows
a schedule. ``fit`` is the usual loop around a ``Tuner``.

Processes that train one model together, each on its part of a batch, average what they compute by
``Ranks``.

A step has three parts, which a loop of the user's own can call: ``forward``, ``after_backward`` and
``after_step``. ``Training.step`` is their composition with an ordinary step on the weights.

In: a trial, a model, its optimizer, a loss and batches. Out: a trained model, reports, and the
tuned values in the trial.

Imports go down: this folder may import all others but ``augmentation`` and ``visualization``.
"""
