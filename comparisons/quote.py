"""Writes tables of the stored results into the documents that quote them.

    python -m comparisons.quote

A table stands between ``<!-- results: NAME -->`` and ``<!-- end of results -->`` in a document. Its
numbers come from the tables that ``report`` wrote to ``comparisons/results``. With ``--check`` the
command writes nothing, and fails if a document quotes other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
import math
from pathlib import Path
import re
from typing import Any

import click
import pandas as pd

from comparisons._files import replaced
from comparisons._formatting import number_text, to_markdown
from comparisons._report._equal_cost import formatted_tests


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "comparisons" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")

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
    """Return one short row a problem: searches, and one run of Δ-STN from each start."""

    def with_validation(row: dict[str, Any], tuner: str) -> str:
        test, validation = _loss(row[tuner]), _loss(row[f"{tuner}, validation"])
        return f"{test} ({validation})"

    kept = {row["problem"]: row for row in _kept("equal_cost")}
    return pd.DataFrame(
        {
            "problem": label,
            "best search": f"{_TUNERS[row['best_search']]} {_loss(row['best_search_loss'])}",
            "TPE at equal cost": with_validation(row, "tpe at equal cost"),
            "Δ-STN, weak start": with_validation(row, "delta-stn@0.05"),
            "strong start": with_validation(row, "delta-stn@0.5"),
            "its plain runs": ", ".join(
                number_text(row[f"plain runs of delta-stn@{start}"], ".1f")
                for start in ("0.05", "0.5")
            ),
        }
        for problem, label in (_SMALL | _LARGER).items()
        for row in [kept[problem]]
    )


def _kept(table: str) -> list[dict[str, Any]]:
    return [
        {str(name): value for name, value in row.items()}
        for row in pd.read_csv(RESULTS / f"{table}.csv").to_dict("records")
    ]


def equal_cost_tests() -> pd.DataFrame:
    """Return wins and tests against searches of the same cost, and against the best search."""
    return formatted_tests(pd.read_csv(RESULTS / "equal_cost_tests.csv"))


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "overview": overview,
    "tests": equal_cost_tests,
    "small problems": lambda: losses(_SMALL),
    "larger problems": lambda: losses(_LARGER),
}
_PLACE = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def quoted(document: str) -> str:
    """Return a document with new tables."""

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
