"""Checks of models.

Errors for models whose layers the Tuner cannot see (compiled, scripted, sharded, replicated), and a
warning of models that train in evaluation mode.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def require_visible_layers(model: nn.Module) -> None:
    """Check that no wrapper hides the layers of a model.

    Raises:
        ValueError: If one does; the message says what to give the Tuner.
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and _trains(module):
            raise ValueError(
                f"{_place(path)} is a TorchScript module, which hides its layers from the "
                "Tuner. Give it the module itself, before torch.jit.script or torch.jit.trace, or "
                "freeze its parameters (for p in module.parameters(): p.requires_grad_(False)); "
                "script the model after tuning."
            )
        _require_not_compiled(path, module)
        _require_not_split(path, module)


def warn_of_evaluation_mode(model: nn.Module) -> None:
    """Warn if the whole model is in evaluation mode; a part may be so on purpose.

    By default Python shows a warning once for each line that gives it.
    """
    if not any(module.training for module in model.modules()):
        warnings.warn(
            "The whole model is in evaluation mode in a training step, so its dropout is off and "
            "its batch normalisation does not learn. Call model.train() after each model.eval(); "
            "Tuner.evaluate() needs neither of them.",
            stacklevel=3,
        )


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _place(path: str) -> str:
    return f"The model's module {path!r}" if path else "The model"


def _require_not_compiled(path: str, module: nn.Module) -> None:
    if type(module).__name__ == "OptimizedModule":
        raise ValueError(
            f"{_place(path)} is compiled, and torch.compile hides its layers from the Tuner. Give "
            "it the model itself; compile it for retraining at the tuned values."
        )
    if module._compiled_call_impl is not None:
        raise ValueError(
            f"{_place(path)} is compiled in place, and module.compile() hides its layers from the "
            "Tuner. Leave module.compile() out in trials that tune; compile the model for "
            "retraining at the tuned values."
        )


def _require_not_split(path: str, module: nn.Module) -> None:
    """Check that no wrapper spreads the parameters or the batch over devices."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    sharding = "FullyShardedDataParallel" if "FullyShardedDataParallel" in kinds else "fully_shard"
    if kinds & {"FullyShardedDataParallel", "FSDPModule"}:
        raise ValueError(
            f"{_place(path)} is sharded over processes by FSDP ({sharding}), and the "
            "response needs whole weights. Give the Tuner the model before it is sharded; on "
            "several devices wrap it in torch.nn.parallel.DistributedDataParallel. Or tune a "
            "smaller model on one device, and shard the one that you train at the tuned values."
        )
    if isinstance(module, nn.DataParallel):
        raise ValueError(
            f"{_place(path)} is a DataParallel, whose threads hide the layers from the Tuner. Give "
            "the Tuner model.module and one device, or take "
            "torch.nn.parallel.DistributedDataParallel, with a process for each device."
        )
    if isinstance(module, DistributedDataParallel):
        raise ValueError(
            f"{_place(path)} is a DistributedDataParallel inside of another module. Give the Tuner "
            "the whole model in one: DistributedDataParallel(model)."
        )
