"""The size of a user's batch, its parts, its mean loss, and an endless loader of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from optuna_dstn.batch._batch_objects import examples_in_object, part_of_object
from optuna_dstn.batch._example_lists import (
    contents,
    examples_in_list,
    is_dataclass,
    is_list_of_like_tensors,
)
from optuna_dstn.batch._loader_pass import (
    LoaderPass,
    has_workers,
    keeps_position,
    start_workers,
)


EMPTY_LOADER = (
    "The validation loader yields no batch, so there is nothing to evaluate on. Check the length "
    "of its data set (drop_last=True drops a single small batch), and that it is no generator that "
    "has been used up."
)


_ORDINALS = ("first", "second")


def batch_size(batch: Any, axis: int = 0) -> int:
    """Return the length of the batch axis of the first tensor in ``batch`` that has it.

    If the first tensors are in a list of one tensor for each example, it is the list's length.

    Args:
        batch: What a loader yields: a tensor, or tuples, lists, mappings, dataclasses and other
            objects with tensors inside. An object has as many examples as labels ``y``.
        axis: 0, or 1 for sequence-first tensors (T, B, ...).

    Raises:
        ValueError: If no tensor has a batch axis, or a list of tensors may mean two things.
    """
    examples = _first_length(batch, axis, ())
    if examples is None:
        raise ValueError(
            f"The batch (a {type(batch).__name__}) holds no tensor with a batch axis, so its "
            "examples cannot be counted. Let the loader yield a tensor, or a tuple, list or dict "
            f"of tensors whose {_ORDINALS[axis]} axis is the batch, such as (labels, batch)."
        )
    return examples


def _first_length(batch: Any, axis: int, beside: tuple[Any, ...]) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[axis] if batch.ndim > axis else None
    if beside and is_list_of_like_tensors(batch) and batch[0].ndim > axis:
        return examples_in_list(batch, beside, axis)
    if not isinstance(batch, (tuple, list, Mapping)) and not is_dataclass(batch):
        return examples_in_object(batch, axis)
    items = contents(batch) or []
    for index, item in enumerate(items):
        others = (*beside, *items[:index], *items[index + 1 :])
        length = _first_length(item, axis, others)
        if length is not None:
            return length
    return None


def tensors_of(batch: Any) -> list[Tensor]:
    """Return all tensors in what a loader yields."""
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for item in contents(batch) or [] for tensor in tensors_of(item)]


def part_of(batch: Any, examples: slice, size: int, axis: int = 0) -> Any:
    """Return some examples of a batch.

    Args:
        batch: What a loader yields.
        examples: The examples to take.
        size: The number of examples in ``batch``.
        axis: The batch axis of its tensors.

    Raises:
        TypeError: If the batch holds an object that is no tensor, number, text or container.
    """
    if isinstance(batch, Tensor) and batch.layout is not torch.strided:
        return _part_of_sparse(batch, examples, size)
    if isinstance(batch, Tensor):
        if batch.ndim > axis and batch.shape[axis] == size:
            return batch[(slice(None),) * axis + (examples,)]
        if batch.ndim and batch.shape[0] == size:
            return batch[examples]
        return batch
    if batch is None or isinstance(batch, (int, float, str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        parts = {key: part_of(value, examples, size, axis) for key, value in batch.items()}
        return parts if type(batch) is dict else type(batch)(parts)  # type: ignore[call-arg]
    if isinstance(batch, (tuple, list)):
        if len(batch) == size and _is_one_for_each(batch, size, axis):
            return batch[examples]
        items = [part_of(item, examples, size, axis) for item in batch]
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*items)
        return type(batch)(items)
    if is_dataclass(batch):
        fields = [field.name for field in dataclasses.fields(batch) if field.init]
        parts = {name: part_of(getattr(batch, name), examples, size, axis) for name in fields}
        return dataclasses.replace(batch, **parts)
    result = part_of_object(batch, examples, size, lambda x: part_of(x, examples, size, axis))
    if result is not None:
        return result
    raise TypeError(
        f"The batch holds a {type(batch).__name__}, of which no part can be taken for the "
        "response. Let the loader yield tensors in tuples, lists or dicts, or set "
        "TunerConfig(response_fraction=1)."
    )


def _part_of_sparse(matrix: Tensor, examples: slice, size: int) -> Tensor:
    """Return the rows of a sparse matrix that belong to some examples, if it has rows of examples.

    Raises:
        TypeError: If PyTorch cannot select rows of a matrix of this layout.
    """
    if matrix.shape[0] != size:
        return matrix
    rows = torch.arange(size, device=matrix.device)[examples]
    try:
        return matrix.index_select(0, rows)
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(
            f"The batch holds a tensor of layout {matrix.layout}, of which no part can be taken."
        ) from error


def _is_one_for_each(items: Any, size: int, axis: int) -> bool:
    """Whether a list as long as the batch has one item (a text, a tensor) for each example."""
    if not any(isinstance(item, Tensor) for item in items):
        return True
    hold_all = (size in item.shape[: axis + 1] for item in items)
    return is_list_of_like_tensors(items) and not all(hold_all)


class EndlessBatches:
    """The batches of a loader, again and again.

    Args:
        loader: Each pass iterates it anew. An evaluation may iterate the loader meanwhile.

    Raises:
        ValueError: If the loader wraps a loader with persistent workers.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._given = loader
        self._loader = with_own_iterator(loader)
        self._pass: LoaderPass | None = None

    @property
    def drawn(self) -> int:
        """The number of batches drawn in the present pass."""
        return 0 if self._pass is None else self._pass.drawn

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            ValueError: If the loader yields none.
        """
        if self._pass is not None:
            with suppress(StopIteration):
                return next(self._pass)
        self._pass = LoaderPass(self._loader)
        try:
            return next(self._pass)
        except StopIteration:
            raise ValueError(EMPTY_LOADER) from None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the present pass."""
        return {
            "pass": None if self._pass is None else self._pass.state_dict(),
            "evaluations_have_workers": has_workers(self._given),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`, in the same order of the batches."""
        saved = state["pass"]
        self._pass = None if saved is None else LoaderPass.resumed(self._loader, saved)
        start_workers(self._given, state["evaluations_have_workers"])


def with_own_iterator(loader: Iterable[Any]) -> Iterable[Any]:
    """Return the loader with an iterator that no other pass over the loader resets.

    A loader with persistent workers has a single iterator, which each new pass resets. One that
    keeps its position, as torchdata's ``StatefulDataLoader``, knows its last iterator only.
    """
    if any(map(_is_persistent, getattr(loader, "__dict__", {}).values())):
        raise ValueError(
            f"The validation loader (a {type(loader).__name__}) is one around a DataLoader with "
            "persistent_workers=True, which can only be iterated by one pass at a time: each "
            "evaluation would end the pass that the steps on the hyperparameters draw from. Give "
            "that DataLoader persistent_workers=False."
        )
    if not (_is_persistent(loader) or (isinstance(loader, DataLoader) and keeps_position(loader))):
        return loader
    own: Any = copy.copy(loader)  # of the same sampler and generator
    own._iterator = None
    return own  # type: ignore[no-any-return]


def _is_persistent(loader: Any) -> bool:
    return isinstance(loader, DataLoader) and loader.persistent_workers


def mean_loss(loss: Any, examples: int, source: str) -> Tensor:
    """Return the mean loss of a batch.

    Args:
        loss: What a loss function returned: a scalar, the mean over the batch, or one value per
            example, shape (examples,).
        examples: The size of the batch.
        source: The name of the loss function, for the message.

    Raises:
        TypeError: If the loss is no tensor.
        ValueError: If the loss has another shape, or is not floating point.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"{source} returned a {type(loss).__name__}: return the loss as a tensor, either a "
            "scalar (the mean over the batch) or one value per example."
        )
    if loss.ndim and loss.shape != (examples,):
        raise ValueError(
            f"{source} returned a tensor of shape {tuple(loss.shape)} for a batch of {examples}: "
            f"return a scalar (the mean over the batch) or one value per example, "
            f"shape ({examples},)."
        )
    if not torch.is_floating_point(loss):
        raise ValueError(f"{source} returned {loss.dtype}: a loss must be floating point.")
    return loss.mean() if loss.ndim else loss
