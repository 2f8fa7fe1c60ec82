"""What pages say about the package is so: messages, public names, links, folders."""

import ast
from collections.abc import Iterator
import operator
from pathlib import Path
import re

import pytest

import optuna_dstn


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield all strings of a module; what a formatted one puts in is an ellipsis."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def messages() -> str:
    files = (ROOT / "optuna_dstn").rglob("*.py")
    return "\n".join(text for file in files for text in texts(ast.parse(file.read_text())))


def test_quoted_messages_are_those_of_the_package(messages):
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^### “(.*)”$", page, re.MULTILINE)
    assert len(quoted) > 40
    parts = (re.escape(part) for part in quoted)
    patterns = [part.replace("…", ".{0,60}?") for part in parts]
    missing = [q for q, p in zip(quoted, patterns, strict=True) if not re.search(p, messages)]
    assert not missing


def public_names() -> set[str]:
    modules = {"augmentation", "visualization"}
    names = set(optuna_dstn.__all__) - modules - {"__version__", "integration"}
    for module in modules:
        names |= {f"{module}.{name}" for name in getattr(optuna_dstn, module).__all__}
    return names


def test_the_reference_has_every_public_name():
    page = (DOCS / "reference.md").read_text()
    listed = set(re.findall(r"^   ([\w.]+)$", page, re.MULTILINE))
    assert public_names() <= listed
    for name in listed:
        operator.attrgetter(name)(optuna_dstn)


def test_the_internals_name_every_folder_and_no_other():
    page = (DOCS / "internals.md").read_text()
    named = set(re.findall(r"`(\w+)/`", page))
    folders = {path.parent.name for path in (ROOT / "optuna_dstn").glob("*/__init__.py")}
    assert folders <= named
    paths = re.findall(r"`([\w/]+/)`", page)
    roots = ROOT, ROOT / "optuna_dstn"
    assert [p for p in paths if not any((root / p).is_dir() for root in roots)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in inside if not (path.parent / link).exists()] == []
