from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result
import pytest

from comparisons import __main__ as command
from comparisons.problems import PROBLEMS


def _invoke(*options: str) -> Result:
    return CliRunner().invoke(command.main, options)


def test_list_shows_every_problem_and_tuner() -> None:
    result = _invoke("list")
    assert result.exit_code == 0
    for name, problem in PROBLEMS.items():
        assert name in result.output
        words = " ".join(result.output.split())
        assert problem.at("smoke").description in words
        assert problem.at("cpu").description in words
    for name, tuner in command.TUNERS.items():
        assert f"{name} " in result.output
        assert tuner.description in result.output


def test_list_says_whether_one_of_several_files_will_do() -> None:
    text = " ".join(_invoke("list").output.split())
    assert "[needs --data-dir with fashion_mnist.npz or mnist.npz]" in text
    assert "[needs --data-dir with ptb.train.txt + ptb.valid.txt + ptb.test.txt or ptb/" in text
    assert "wikitext2_part/train.txt + wikitext2_part/valid.txt + wikitext2_part/test.txt]" in text
    assert "[needs --data-dir with cifar10_jpeg.npz]" in text


@pytest.mark.parametrize("of", ["main", *command.main.commands])
def test_help_shows_commands_that_are_understood(of: str) -> None:
    text = _invoke(*([] if of == "main" else [of]), "--help").output.replace("\\\n", " ")
    examples = [line.split() for line in text.splitlines() if "  python -m comparisons" in line]
    examples = [words[words.index("comparisons") + 1 :] for words in examples]
    assert (set(command.main.commands) if of == "main" else {of}) <= {name for name, *_ in examples}
    for name, *options in examples:
        here = ["cpu" if option == "cuda" else option for option in options]
        command.main.commands[name].make_context(name, here)  # raises where it is not understood


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("run", "--tuners", "tpr"), "Did you mean tpe"),
        (("run", "--tuners", ""), "no tuner ''"),
        (("run", "--problems", "digit"), "Did you mean digits"),
        (("run", "--problems", "digits,zzz"), "no problem 'zzz'. Known: ridge"),
        (("run", "--seeds", "0"), "--seeds"),
        (("run", "--scale", "huge"), "smoke"),
        (("run", "--budget", "0"), "--budget"),
        (("run", "--budget", "ten"), "--budget"),
        (("run", "--device", "abacus"), "'abacus' cannot be used"),
        (("sensitivity", "--problems", "digit"), "Did you mean digits"),
        (
            ("sensitivity", "--problems", "mnist-mlp", "--data-dir", "none"),
            "needs mnist.npz, which none does not hold",
        ),
        (("sensitivity", "--scale", "huge"), "smoke"),
        (("report",), "There are no studies"),
        (("lsit",), "No such command"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    out = tmp_path / "out"
    result = _invoke(*options, *(("--out", str(out)) if options[0] != "lsit" else ()))
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert not out.exists()
