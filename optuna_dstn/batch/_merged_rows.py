"""Where the examples are after a reshape that merges the batch axis with another axis."""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import Tensor

from optuna_dstn.tensors._function_names import functions


RESHAPING_FUNCTIONS = functions(
    (torch, Tensor), "view reshape flatten ravel unflatten view_as reshape_as"
)
"""They may merge axes, or cut one axis into several."""


def merged_rows(
    shape: Sequence[int],
    axis: int,
    rows_of_example: int,
    examples: int,
    new_shape: Sequence[int],
    new_axis: int,
) -> int | None:
    """Return how many rows of one example lie side by side along an axis after a reshape.

    Row r belongs to example ``(r // rows) % examples``, where ``rows`` is the returned number. It
    is T where a reshape merges (B, T, C) to (B·T, C), and 1 where it merges (T, B, C) to (T·B, C).

    Args:
        shape: Shape before the reshape.
        axis: Axis of the examples in ``shape``, or of rows of theirs.
        rows_of_example: How many rows of one example lie side by side along ``axis``; 1 for the
            batch axis itself.
        examples: B.
        new_shape: Shape after the reshape, of as many entries.
        new_axis: The axis in question.

    Returns:
        ``None`` if an index along the new axis has entries of several examples.
    """
    entries_of_example = rows_of_example * math.prod(shape[axis + 1 :])
    entries_of_row = math.prod(new_shape[new_axis + 1 :])
    entries_of_axis = new_shape[new_axis] * entries_of_row
    if not entries_of_axis or not entries_of_example or entries_of_example % entries_of_row:
        return None
    is_whole = entries_of_axis % (examples * entries_of_example) == 0
    return entries_of_example // entries_of_row if is_whole else None
