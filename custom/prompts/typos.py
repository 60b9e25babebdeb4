"""Correction of typing errors: a word one edit away from a known one, never a real word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from custom.prompts.lexicon import Lexicon, Token

#: A prompt with more possible spellings than this is refused.
_MOST_SPELLINGS = 64


def is_one_edit(typed: str, word: str) -> bool:
    """Whether inserting, deleting or replacing one letter, or exchanging two neighbours, makes `word` of `typed`."""
    if typed == word or abs(len(typed) - len(word)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(typed, word, strict=False)) if a != b), min(len(typed), len(word)))
    one, two = typed[start:], word[start:]
    return one[1:] == two or one == two[1:] or one[1:] == two[1:] or (one[:2] == two[1::-1] and one[2:] == two[2:])


def corrected(tokens: Sequence[Token], lexicon: Lexicon) -> Iterator[list[Token]]:
    """Yield every way to correct the unknown words, beginning with the text as typed if that may be right.

    Yields nothing if no word needs correction, an unknown word is near none of the class set, or there are too many
    ways to try.
    """
    choices = [_choices(token.word, lexicon) for token in tokens]
    if prod(map(len, choices)) <= _MOST_SPELLINGS and any(
        len(words) != 1 or words[0] != token.word for words, token in zip(choices, tokens, strict=True)
    ):
        for words in product(*choices):
            yield [token._replace(word=word) for token, word in zip(tokens, words, strict=True)]


def _choices(word: str, lexicon: Lexicon) -> list[str]:
    near = [] if word in lexicon.known else [other for other in lexicon.correctable if is_one_edit(word, other)]
    return [word, *near] if word in lexicon.vocabulary else near
