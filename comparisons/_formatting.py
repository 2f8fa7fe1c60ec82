"""Numbers and tables as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math
import re
from typing import NamedTuple

import pandas as pd

from comparisons._tuners import BASELINE


BASELINE_DIVERGED = f"{BASELINE} diverged"
_ENOUGH_FOR_QUARTILES = 5


class Spread(NamedTuple):
    """The median of several values, and how far the values spread.

    Infinity stands for a diverged run. All three are NaN if there is no value.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return median and quartiles, or median and range of fewer than five values.

        NaNs do not count.
        """
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return cls(math.nan, math.nan, math.nan)
        if len(known) < _ENOUGH_FOR_QUARTILES:
            return cls(_quantile(known, 0.5), known[0], known[-1])
        return cls(*(_quantile(known, share) for share in (0.5, 0.25, 0.75)))

    def text(self, form: str) -> str:
        """Return «median [low, high]», or the median alone if the values do not differ."""
        if math.isnan(self.median):
            return "–"
        text = number_text(self.median, form)
        if self.low == self.high:
            return text
        return f"{text} [{number_text(self.low, form)}, {number_text(self.high, form)}]"


def spread_name(values: int) -> str:
    """Return what the ends of a :class:`Spread` of this many values are."""
    return "quartiles" if values >= _ENOUGH_FOR_QUARTILES else "range"


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the inverse of the empirical distribution, with the mean of both values at a jump.

    NumPy's method "averaged_inverted_cdf" is the same, but gives NaN for infinities.
    """
    index = len(ordered) * share
    below = math.floor(index)
    return (ordered[below - 1] + ordered[below]) / 2 if index == below else ordered[below]


def number_text(value: float, form: str = "#.4g") -> str:
    """Return a number as text.

    Infinity stands for a diverged run; −∞, in a difference, for a diverged run of the baseline.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "diverged" if value > 0 else BASELINE_DIVERGED
    return f"{value:{form}}".rstrip(".")


def percent_text(relative: float) -> str:
    """Return a relative difference in per cent, with «+» if the loss is higher.

    ±2, the largest relative differences, stand for a diverged run.
    """
    if math.isnan(relative):
        return "–"
    if abs(relative) >= 2.0:
        return "diverged" if relative > 0 else BASELINE_DIVERGED
    return f"{100 * relative:+.1f} %"


def p_text(p: float) -> str:
    """Return the p of a test, which is NaN if there were too few pairs for the test."""
    return "too few" if math.isnan(p) else f"{p:.2g}"


_ALIGNED_LEFT = ("problem", "tuner", "method", "measure", "against")


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown, with aligned columns.

    Written by hand: ``pandas.DataFrame.to_markdown`` needs another library, and takes numbers out
    of texts to align them.
    """
    columns = [
        _aligned([name, *cells], to_left=name in _ALIGNED_LEFT)
        for name, cells in table.astype(str).items()
    ]
    header, *body = ("| " + " | ".join(row) + " |" for row in zip(*columns, strict=True))
    return "\n".join([header, *body]) + "\n"


def _aligned(cells: Sequence[object], to_left: bool) -> list[str]:
    """Return the cells of a column at the same width, with the rule after the header."""
    header, *body = texts = [_escaped(str(cell)) for cell in cells]
    width = max(3, *map(len, texts))
    pad = str.ljust if to_left else str.rjust
    rule = "-" * width if to_left else "-" * (width - 1) + ":"
    return [pad(header, width), rule, *(pad(text, width) for text in body)]


# What would end a cell, or begin HTML, code or emphasis. A bracket alone, as in "[0, 1]", begins
# no link.
_MARKDOWN = re.compile(r"[\\|<&`*]|\](?=[(\[:])")


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.splitlines()))
