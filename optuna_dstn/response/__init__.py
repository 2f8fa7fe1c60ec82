"""The best response: how the weights move when the hyperparameters do, Δp = Θ_p·ε.

A ``Response`` holds Θ for every responding parameter, structured, gated or full, and turns a
perturbation ε into ``Delta`` terms, one row for each example. ``Deltas`` hands these to the rules
of one pass. ``ResponseOptimizer`` trains Θ.

In: parameters, and perturbations ε of shape (B, h). Out: Δ of each parameter, as gates (B, c) times
directions of the parameter's shape.

Imports go down: ``batch`` and ``tensors`` are below; ``parameters`` and ``rules`` are above.
"""
