"""Runs the Python blocks of pages, and writes what they print and draw into them.

    python docs/execute.py docs/tutorial.md

A block of ``text`` after a block of ``python`` takes what that printed. An image after it takes its
variable ``figure``, for which plotly needs kaleido: ``pip install kaleido``. The result depends on
the machine in the last digits, so this is run by hand, when the page or the library changes.
"""

from contextlib import redirect_stdout
import io
from pathlib import Path
import re
import sys
from typing import Any

import plotly.graph_objects as go


_BLOCK = re.compile(
    r"```python\n(?P<code>.*?)```"
    r"(?:\n\n```text\n(?P<output>.*?)```|\n\n!\[.*?\]\((?P<image>.*?)\))?",
    re.DOTALL,
)


def execute(path: Path) -> None:
    """Run all Python blocks of a page in one namespace, and replace their outputs."""
    names: dict[str, Any] = {}

    def run(match: re.Match[str]) -> str:
        printed = io.StringIO()
        code = match["code"].replace("figure.show()\n", "")
        with redirect_stdout(printed):
            exec(compile(code, str(path), "exec"), names)
        block = match[0]
        if match["output"] is not None:
            start = match.start("output") - match.start()
            return f"{block[:start]}{printed.getvalue()}```"
        if match["image"] is not None:
            draw(names["figure"], path.parent / match["image"])
        return block

    page = _BLOCK.sub(run, path.read_text(encoding="utf-8"))
    path.write_text(page, encoding="utf-8")


def draw(figure: go.Figure, path: Path) -> None:
    """Write a figure at a size that can be read on a phone."""
    legend = {"orientation": "h", "x": 0, "y": -0.15, "yanchor": "top"}
    margin = {"l": 70, "r": 20, "t": 30, "b": 90}
    figure.update_layout(
        template="plotly_white", font_size=16, title=None, margin=margin, legend=legend
    )
    figure.write_image(path, width=560, height=500, scale=1.6)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        execute(Path(argument))
