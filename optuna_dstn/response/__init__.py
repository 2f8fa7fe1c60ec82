"""The best response: how the weights move when the hyperparameters move, Δp = Θ_p·ε.

A ``Response`` stores Θ for every responding parameter; ``RESPONSES`` lists its structures. It turns
a perturbation ε into ``Delta`` terms, with one row for each example. ``Deltas`` gives these terms
to the layer rules of one pass. ``ResponseOptimizer`` trains Θ.

In: parameters, and perturbations ε of shape (B, h). Out: Δp of each parameter p as a sum of terms,
gates of shape (B, c) times a direction of the shape of p.

Imports go down: ``batch`` and ``tensors`` are below; ``parameters`` and ``rules`` are above.
"""

from __future__ import annotations

from optuna_dstn.response._full import FullResponse
from optuna_dstn.response._response import Response
from optuna_dstn.response._structured import AnchoredResponse, GatedResponse, StructuredResponse


# By the name in TunerConfig(response=...).
RESPONSES: dict[str, type[Response]] = {
    "structured": StructuredResponse,
    "anchored": AnchoredResponse,
    "gated": GatedResponse,
    "full": FullResponse,
}

__all__ = ["RESPONSES"]
