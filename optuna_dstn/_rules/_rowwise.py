"""Functions that act on each entry of a tensor by itself, and those that ask only what it is."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from optuna_dstn._rules._names import functions


ROWWISE_FUNCTIONS = functions(
    (torch, torch.Tensor, F),
    """
    dropout alpha_dropout mul multiply div divide true_divide add sub subtract neg pow square abs
    __radd__ __rsub__ __rmul__ rsub where masked_fill clamp tanh sigmoid exp relu
    clone contiguous to float double half bfloat16 type_as view_as
    """,
)
"""A weight that went through these responds as the parameter does from which it was made."""

METADATA_FUNCTIONS = functions(
    (torch.Tensor,),
    "to type_as expand_as view_as reshape_as new_tensor new_full new_zeros new_ones new_empty",
)
"""Of another tensor than the first these take the shape, the dtype or the device only."""
