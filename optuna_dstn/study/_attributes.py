"""Names of the ``user_attrs`` under which a trial keeps what Δ-STN did."""

from __future__ import annotations


START = "dstn:start"  # {name: value}
TUNED = "dstn:tuned"  # [name, ...]
CONFIG = "dstn:config"  # {setting: value}
SCHEDULE = "dstn:schedule"  # see _schedule.py
DIRECTION = "dstn:direction"  # "minimize" or "maximize"
