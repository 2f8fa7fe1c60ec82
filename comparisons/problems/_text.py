"""Next-word prediction on Penn Treebank, or on WikiText-2 if Penn Treebank is not available."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from comparisons.problems._data import Batch, Splits
from comparisons.problems._problem import Problem, Size


_PTB_TITLE, _WIKITEXT_TITLE = "Penn Treebank", "WikiText-2"
_PTB = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
_WIKITEXT = ("train.txt", "valid.txt", "test.txt")
_UNKNOWN = "<unk>"  # stands for rare words in both corpora


@dataclass(frozen=True, kw_only=True)
class TextSize(Size):
    """The sizes of a language model, whose examples are sequences of words.

    Attributes:
        vocabulary: How many words are distinguished; one of them stands for all rare words.
        length: Words in a sequence.
        batch_size: Sequences in a batch.
        units: Units of each layer.
    """

    vocabulary: int
    length: int
    batch_size: int
    units: int


SMOKE_SIZE = TextSize(20, 4, 4, epochs=2, trials=2, vocabulary=20, length=6, batch_size=5, units=8)


@dataclass(frozen=True)
class LanguageModelling(Problem):
    """A network that predicts the next word at each position; the loss is in nats a word.

    The problem reads Penn Treebank if ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt`` are
    in :attr:`data_dir` or its folder ``ptb``, and otherwise
    ``wikitext2_part/{train,valid,test}.txt``.
    """

    size: TextSize

    files: ClassVar[tuple[tuple[str, ...], ...]] = (
        _PTB,
        tuple(f"ptb/{name}" for name in _PTB),
        tuple(f"wikitext2_part/{name}" for name in _WIKITEXT),
    )

    @property
    def corpus(self) -> str:
        """The name of the available corpus."""
        if not self.found_files:
            return f"{_PTB_TITLE} or {_WIKITEXT_TITLE} (no file found)"
        return _PTB_TITLE if self.found_files[0].name in _PTB else _WIKITEXT_TITLE

    @property
    def description(self) -> str:
        """Data, network and search space."""
        size = self.size
        return (
            f"{self.corpus}, the next word; the first {size.train} training, {size.valid} "
            f"validation and {size.test} test sequences of {size.length} words, or as many as "
            f"there are, the {size.vocabulary - 1} most frequent training words told apart; "
            f"{self._network}; tuned: {self._tuned}; {self._optimization}, batches of "
            f"{size.batch_size}; {size.epochs} epochs; loss in nats a word"
        )

    @property
    @abstractmethod
    def _network(self) -> str:
        """The network, as text."""

    @property
    @abstractmethod
    def _tuned(self) -> str:
        """The hyperparameters and their ranges, as text."""

    @property
    @abstractmethod
    def _optimization(self) -> str:
        """The optimizer, as text."""

    def data(self) -> Splits:
        """Return sequences of words and the next words, (N, length) each, on the device."""
        self.require_data()
        return _load(self.found_files, self.size, self.device)


def losses(logits: Tensor, following: Tensor) -> Tensor:
    """Return the mean cross entropy of each sequence, (B,), from logits (B, T, vocabulary)."""
    # With the classes as the last of two axes, this is several times faster than with three axes.
    found = F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")
    return found.view(following.shape).mean(1)


@functools.cache
def _load(files: tuple[Path, ...], size: TextSize, device: str) -> Splits:
    texts = [_words(file) for file in files]
    frequent = Counter(word for word in texts[0] if word != _UNKNOWN)
    number = {
        word: index
        for index, (word, _) in enumerate(frequent.most_common(size.vocabulary - 1), start=1)
    }
    counts = (size.train, size.valid, size.test)
    return Splits(
        *(
            _sequences([number.get(word, 0) for word in words], size.length, most)
            for words, most in zip(texts, counts, strict=True)
        )
    ).to(device)


def _words(file: Path) -> list[str]:
    """Return the words of a text, with an end mark after each line that is not empty."""
    lines = map(str.split, file.read_text(encoding="utf-8").splitlines())
    return [word for line in lines if line for word in (*line, "<eos>")]


def _sequences(numbers: list[int], length: int, most: int) -> Batch:
    """Return successive sequences, and the same sequences shifted by one word."""
    count = min(most, (len(numbers) - 1) // length)
    stream = torch.tensor(numbers[: count * length + 1])
    return stream[:-1].view(count, length), stream[1:].view(count, length)
