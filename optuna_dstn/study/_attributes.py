"""Keys of the ``user_attrs`` in which a trial stores what Δ-STN did."""

from __future__ import annotations


START = "dstn:start"  # {name: start value}
TUNED = "dstn:tuned"  # [name, ...]
CONFIG = "dstn:config"  # {setting: value}
SCHEDULE = "dstn:schedule"  # the number of chunks of rows; see schedule/_schedule.py
DIRECTION = "dstn:direction"  # "minimize" or "maximize"
