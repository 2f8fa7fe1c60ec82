"""Functions that a model may end with, and that are applied after the linearised prediction.

A model may return ``log_softmax(logits)``. Δ-STN linearises the logits, adds their tangent, and
applies the log-softmax afterwards.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from optuna_dstn.tensors._function_names import functions


OUTPUT_FUNCTIONS = functions(
    (torch, torch.Tensor, torch.special, F),
    """
    log_softmax softmax sigmoid logsigmoid expit softplus exp tanh
    binary_cross_entropy binary_cross_entropy_with_logits cross_entropy ctc_loss
    gaussian_nll_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss poisson_nll_loss
    smooth_l1_loss soft_margin_loss triplet_margin_loss
    """,
)
"""Output activations and losses: their arguments are linearised, their results are not."""

FOLLOWING_FUNCTIONS = functions(
    (torch, torch.Tensor),
    """
    add __radd__ sub __rsub__ mul __rmul__ div neg log clamp clip sum mean
    __getitem__ contiguous flatten float permute reshape squeeze to transpose type_as unsqueeze view
    """,
)
"""Functions that may follow an output function before the model returns."""
