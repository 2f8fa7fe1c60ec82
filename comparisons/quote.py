"""Writes tables of the stored results into the documents that quote them.

    python -m comparisons.quote

A table stands between ``<!-- results: NAME -->`` and ``<!-- end of results -->`` in a document. Its
numbers come from the tables that ``report`` wrote to ``comparisons/results``. With ``--check`` the
command writes nothing, and fails if a document quotes other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import itertools
import math
from pathlib import Path
import re
from typing import Any

import click
import pandas as pd

from comparisons._files import replaced
from comparisons._formatting import number_text, to_markdown


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "comparisons" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md", RESULTS / "README.md")

_SMALL = {
    "ridge": "ridge regression, 12 weight decays",
    "linear-dropout": "linear regression, 12 input dropouts",
    "digits": "digits, MLP, 3 dropouts",
    "diabetes": "diabetes, MLP, 7 regularisers",
    "breast-cancer": "breast cancer, MLP, 7 regularisers",
}
_LARGER = {
    "mnist-mlp": "MNIST, MLP, 3 dropouts",
    "simple-cnn": "MNIST, CNN, 4 dropouts and cutout",
    "alexnet": "CIFAR-10, thin AlexNet, 18 regularisers",
    "vgg16": "CIFAR-10, thin VGG16, 26 regularisers",
    "resnet18": "CIFAR-10, thin ResNet18, 20 regularisers",
    "lstm": "WikiText-2, LSTM, 5 dropouts, AR, TAR",
    "transformer": "WikiText-2, Transformer, 5 dropouts, weight decay",
}
_TUNERS = {
    "random": "random",
    "tpe": "TPE",
    "gp": "GP",
    "untuned@0.05": "start 0.05, untuned",
    "untuned@0.5": "start 0.5, untuned",
    "delta-stn@0.05": "Δ-STN from 0.05",
    "delta-stn@0.5": "Δ-STN from 0.5",
}
_STARTS = {"delta-stn@0.05": "0.05", "delta-stn@0.5": "0.5"}


def _loss(value: float) -> str:
    """Return a loss with three digits, or with four if it is 1 or more."""
    return number_text(value, "#.4g" if value >= 1 or math.isnan(value) else "#.3g")


def _spread(row: dict[str, Any], value: str) -> str:
    median, low, high = (_loss(row[f"{value}_{end}"]) for end in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def losses(problems: dict[str, str]) -> pd.DataFrame:
    """Return the losses and costs of the searches and of Δ-STN on some problems."""
    kept = {(row["problem"], row["tuner"]): row for row in _kept("table")}
    return pd.DataFrame(
        {
            "problem": label if tuner == "random" else "",
            "tuner": name,
            "seeds": row["seeds"],
            "test loss, retrained": _spread(row, "retrained_test_loss"),
            "test loss, own run": _loss(row["test_loss_median"]),
            "plain runs": number_text(row["plain_runs_median"], ".1f"),
        }
        for problem, label in problems.items()
        for tuner, name in _TUNERS.items()
        for row in [kept[problem, tuner]]
    )


def overview() -> pd.DataFrame:
    """Return one short row a problem: the best search, plain training and Δ-STN, retrained."""
    kept = {(row["problem"], row["tuner"]): row for row in _kept("best_search")}

    def reached(problem: str, tuner: str) -> str:
        return _loss(kept[problem, tuner]["retrained_test_loss"])

    return pd.DataFrame(
        {
            "problem": label,
            "best sampler": _loss(row["best_test_loss"]),
            "untuned": reached(problem, "untuned@0.05"),
            "Δ-STN, weak start": reached(problem, "delta-stn@0.05"),
            "strong start": reached(problem, "delta-stn@0.5"),
            "its cost in plain runs": number_text(row["plain_runs"], ".1f"),
        }
        for problem, label in (_SMALL | _LARGER).items()
        for row in [kept[problem, "delta-stn@0.05"]]
    )


def aim() -> pd.DataFrame:
    """Return the losses of Δ-STN and of the best search, one row a problem."""
    ours = [row for row in _kept("best_search") if row["tuner"] in _STARTS]
    problems = itertools.groupby(ours, key=lambda row: row["problem"])
    return pd.DataFrame(_compared_row(problem, list(rows)) for problem, rows in problems)


def _compared_row(problem: str, rows: Sequence[dict[str, Any]]) -> dict[str, object]:
    first = rows[0]  # all starts are compared with the same search

    def from_each(value: str, text: Callable[[float], str] = _loss) -> str:
        return ", ".join(text(row[value]) for row in rows)

    return {
        "problem": problem,
        "seeds": first["seeds"],
        "retrained: best search": _search(first["best_search"], first["best_test_loss"]),
        f"retrained: Δ-STN from {', '.join(_STARTS.values())}": from_each("retrained_test_loss"),
        "retrained: better start": _better_start(rows, "retrained_test_loss", "best_test_loss"),
        "own run: best search": _search(
            first["best_search_in_own_run"], first["best_own_test_loss"]
        ),
        "own run: Δ-STN": from_each("test_loss"),
        "own run: better start": _better_start(rows, "test_loss", "best_own_test_loss"),
        "validation: best search": _search(
            first["best_search_in_validation"], first["best_validation_loss"]
        ),
        "validation: Δ-STN": from_each("retrained_validation_loss"),
        "plain runs": from_each("plain_runs", lambda runs: number_text(runs, ".1f")),
    }


def _search(name: str, loss: float) -> str:
    return f"{_TUNERS[name]}, {_loss(loss)}"


def _better_start(rows: Sequence[dict[str, Any]], loss: str, best: str) -> str:
    """Return the start with the lower loss, and its distance from the loss of the best search."""
    excess = {_STARTS[row["tuner"]]: row[loss] / row[best] - 1 for row in rows}
    known = {start: value for start, value in excess.items() if math.isfinite(value)}
    if not known:
        return number_text(rows[0][loss])
    start = min(known, key=known.__getitem__)
    return f"{100 * known[start]:+.1f} % from {start}"


def _kept(table: str) -> list[dict[str, Any]]:
    return [
        {str(name): value for name, value in row.items()}
        for row in pd.read_csv(RESULTS / f"{table}.csv").to_dict("records")
    ]


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "overview": overview,
    "small problems": lambda: losses(_SMALL),
    "larger problems": lambda: losses(_LARGER),
    "aim": aim,
}
_PLACE = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def quoted(document: str) -> str:
    """Return a document with new tables.

    Raises:
        KeyError: If the document names an unknown table.
    """

    def filled(place: re.Match[str]) -> str:
        head, name, end = place.groups()
        return head + to_markdown(TABLES[name]()) + end

    return _PLACE.sub(filled, document)


@click.command(help=__doc__)
@click.option(
    "--check", is_flag=True, help="Fail if a document quotes other numbers than the stored results."
)
def main(check: bool) -> None:
    """Write the tables of all documents, or compare them."""
    outdated = []
    for path in DOCUMENTS:
        document = path.read_text(encoding="utf-8")
        new = quoted(document)
        if new != document:
            outdated.append(str(path.relative_to(ROOT)))
            if not check:
                with replaced(path) as file:
                    file.write_text(new, encoding="utf-8")
    if check and outdated:
        raise click.ClickException(
            f"{', '.join(outdated)}: not the kept results. Run `python -m comparisons.quote`."
        )


if __name__ == "__main__":
    main()
