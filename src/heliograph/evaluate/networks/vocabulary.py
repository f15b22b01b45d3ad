"""CLIP's byte pairs, from the file that is released with it."""

import gzip
import html
from collections.abc import Sequence
from pathlib import Path

import ftfy
import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

NUM_MERGES = 49152 - 256 - 2
"""Pairs of the file that CLIP uses."""

START, END = "<|startoftext|>", "<|endoftext|>"

WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class Vocabulary:
    """Text to tokens."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        alphabet = _bytes_in_order()
        words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
        numbers = {word: number for number, word in enumerate(words)}
        self._start, self._end = numbers[START], numbers[END]
        self._tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=list(merges), end_of_word_suffix="</w>"))
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
        levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, levels])
        self._tokenizer.decoder = decoders.ByteLevel()

    def tokens(self, text: str, num: int) -> Int[Tensor, "1 num"]:
        """Start, text, end, zeros; a text that is too long is cut so that the end still fits."""
        found = [
            self._start,
            *self._tokenizer.encode(html.unescape(html.unescape(ftfy.fix_text(text)))).ids,
            self._end,
        ][:num]
        if len(found) == num:
            found[-1] = self._end
        return torch.tensor([found + [0] * (num - len(found))])


def read_vocabulary(file: Path) -> Vocabulary:
    """Of `bpe_simple_vocab_16e6.txt.gz`: a line of version, then a pair a line. Raises OSError, ValueError."""
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        lines = stream.read().split("\n")[1 : NUM_MERGES + 1]
    return Vocabulary([(first, second) for first, second in (line.split() for line in lines)])


def _bytes_in_order() -> list[str]:
    """A printable letter for each of the 256 bytes, the printable ones first: the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
