from __future__ import annotations

import os
import sys
import warnings


os.environ["HF_HUB_OFFLINE"] = "1"

# transformers imports torchvision wherever it is installed, also one that does not fit torch.
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError, OSError):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules["torchvision"] = None  # type: ignore[assignment]

# skorch imports torch_geometric wherever it is installed, which warns of what torch deprecates.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import skorch  # noqa: F401
