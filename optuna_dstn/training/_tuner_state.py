"""What a Tuner adds to the checkpoint of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from optuna_dstn.tensors._saved import restored, saved
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._evaluations import Evaluations
from optuna_dstn.training._state_format import (
    STATE_VERSION,
    parts_of,
    refuse_to_pickle,
    require_same_format,
    require_same_parts,
)
from optuna_dstn.training._training import Training


class TunerState:
    """The methods of a :class:`Tuner` that save and restore its state."""

    _suggested: dict[str, BaseDistribution]
    _context: TrainingContext
    _training: Training
    _evaluations: Evaluations

    __reduce__ = refuse_to_pickle

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the states of model and optimizer.

        All tensors are copies, so that the state stays as it is while training goes on.
        ``torch.load`` reads a saved state with its default, ``weights_only=True``. The entry
        ``"version"`` is the version of the format, an int, ``"method"`` says how the Tuner trains,
        and ``"parts"`` names the hyperparameters, the parameters and the optimizer.
        """
        state: dict[str, Any] = saved(
            {
                "version": STATE_VERSION,
                "method": self._training.method,
                "parts": self._parts(),
                "training": self._training.state_dict(),
                "model_state": self._context.model_state.state_dict(),
                **self._evaluations.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in an objective like the one that saved it.

        Model and optimizer are restored by their own ``load_state_dict``, before this.

        Raises:
            ValueError: If the state has another version, or was saved under another method, or for
                another model or optimizer.
            HyperparameterError: If the state is one of other hyperparameters.
        """
        self._require_own(state)
        state = restored(state)
        self._training.load_state_dict(state["training"])
        self._context.model_state.load_state_dict(state["model_state"])
        self._evaluations.load_state_dict(state)

    def _require_own(self, state: Mapping[str, Any]) -> None:
        """Check that a state is one that :meth:`load_state_dict` can restore here."""
        require_same_format(state, self._training.method)
        require_same_parts(state["parts"], self._parts())

    def _parts(self) -> dict[str, Any]:
        return parts_of(self._suggested, self._context.model, self._context.optimizer)
