"""Running the steps of a LightningModule once more, without what they log and optimise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
import inspect
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from optuna_dstn.batch._batch import with_own_iterator
from optuna_dstn.tensors._other_attributes import other_attributes


class _BackwardReached(Exception):  # noqa: N818 - it is no error
    """Leaves a ``training_step`` that optimises by itself, with its loss."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__()
        self.loss = loss


def quiet_call(
    module: LightningModule, step: Callable[..., Any], *arguments: Any
) -> tuple[Any, dict[str, Any]]:
    """Call ``training_step`` or ``validation_step`` without a trace.

    Nothing is logged, attributes that are lists get no new items, and a ``training_step`` that
    optimises by itself ends at ``manual_backward``.

    The step need not take all arguments: the batch, its index, and so on.

    Returns:
        The result of the step, and what the step has logged, by name.
    """
    logged: dict[str, Any] = {}

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        logged[name] = value

    def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        logged.update(values)

    trainer = module.trainer
    loggers, trainer.loggers = trainer.loggers, [DummyLogger() for _ in trainer.loggers]
    lengths = {name: len(item) for name, item in vars(module).items() if type(item) is list}
    replaced: dict[str, Any] = {"log": log, "log_dict": log_dict}
    if not module.automatic_optimization:
        replaced |= {
            "manual_backward": _leave,
            "toggle_optimizer": _do_nothing,
            "untoggle_optimizer": _do_nothing,
        }
    try:
        with other_attributes(module, replaced), _kept_gradients(module):
            output = step(*arguments[: _count_of(step)])
    except _BackwardReached as reached:
        output = reached.loss
    finally:
        trainer.loggers = loggers
        for name, length in lengths.items():
            del vars(module)[name][length:]
    return output, logged


def loss_in(output: Any) -> Any:
    """Return the loss in what a step returned: the output itself, or a dictionary's ``"loss"``."""
    return output.get("loss") if isinstance(output, Mapping) else output


def _leave(loss: Tensor, *_: Any, **__: Any) -> None:
    raise _BackwardReached(loss)


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def _count_of(step: Callable[..., Any]) -> int | None:
    """Return how many positional arguments a step takes; ``None`` for any number."""
    parameters = inspect.signature(step).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters)


def _kept_gradients(module: LightningModule) -> AbstractContextManager[None]:
    """Let ``zero_grad`` of the module's optimizer do nothing inside."""
    optimizer: Any = module.optimizers()
    return other_attributes(optimizer, {"zero_grad": _do_nothing})


@contextmanager
def validating(trainer: Trainer) -> Iterator[None]:
    """Let ``trainer.validating`` be true inside."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


class ValidationBatches:
    """The batches of the validation loader, as ``validation_step`` gets them.

    Args:
        trainer: Has the loader as soon as the training starts.

    Attributes:
        index: The index of the batch that was drawn last.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.index = 0

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(with_own_iterator(self._loader())):
            self.index = index
            yield self._prepared(batch)

    def _loader(self) -> Any:
        loaders: Any = self._trainer.val_dataloaders
        if isinstance(loaders, (list, tuple)) and len(loaders) == 1:
            loaders = loaders[0]
        if loaders is None or isinstance(loaders, (list, tuple, dict)):
            found = "no validation loader" if loaders is None else "several validation loaders"
            raise ValueError(
                f"The Trainer has {found}, and TunerCallback tunes on the batches of one: "
                "trainer.fit(module, train_loader, valid_loader). Use others in "
                "trainer.validate(...), after the fit."
            )
        return loaders

    def _prepared(self, batch: Any) -> Any:
        """Return a batch on its device, in the precision of the Trainer."""
        trainer = self._trainer
        with validating(trainer):
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
