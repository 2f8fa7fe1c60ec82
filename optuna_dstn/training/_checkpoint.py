"""The format of the Tuner's checkpoints, which take the place of pickling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


STATE_VERSION = 2  # of the format of Tuner.state_dict()


def require_same_format(state: Mapping[str, Any], method: str) -> None:
    """Check the version and the method of a saved state."""
    version = state.get("version")
    if version != STATE_VERSION:
        found = "no version" if version is None else f"version {version!r}"
        raise ValueError(
            f"The state has {found}, and this optuna_dstn reads version {STATE_VERSION}. Give "
            "Tuner.load_state_dict(...) what Tuner.state_dict() of the same release returned."
        )
    if state["method"] != method:
        raise ValueError(
            f"The state was saved by a Tuner that trains by {state['method']!r}, and this one "
            f"trains by {method!r}. Resume under a study of the same kind, with the same "
            "TunerConfig."
        )


def refuse_to_pickle(tuner: object) -> Any:
    """Refuse to pickle or copy a Tuner, whose steps belong to one model and one optimizer."""
    raise TypeError(
        "A Tuner cannot be pickled or copied: it trains one model by one optimizer, and holds what "
        "their steps need. To continue the training elsewhere, save the state_dict() of Tuner, "
        "model and optimizer, make the three anew there, and load the states."
    )
