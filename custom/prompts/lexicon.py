"""The words of a class set, and a prompt cut into them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from custom.anatomy.class_set import HYPHENS, ClassSet, fold

_ELISION = r"(?<!\w)[LlDd]['\u2019](?=\w)"  # l'estomac
_ABBREVIATED = r"(?<=\b[RrLl]t)\.(?=\s*\w)"  # rt. kidney
_TOKEN = re.compile(
    rf"(?P<skip>(?<=\w)[{HYPHENS}](?=\w)|{_ELISION}|{_ABBREVIATED})|[^\W_]+(?:['\u2019][^\W_]+)*|\n|[^\w\s]|_"
)
_MARKS = {"stop": ".;!?\n。", "comma": (*",/|、—", "..."), "break": ":()[]{}\"'“”«»\u2018\u2019"}
Words = tuple[str, ...]


class Token(NamedTuple):
    """A word in folded spelling, and where it stands in the text."""

    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Structure:
    """One mask to write: a class, restricted to the class `within`, less the classes `without` (all 1-based)."""

    index: int
    within: int | None = None
    without: tuple[int, ...] = ()

    def title(self, class_set: ClassSet) -> str:
        """The name of the mask: "kidney tumor in left kidney", "liver without liver tumor"."""
        inside = f" in {class_set[self.within].name}" if self.within else ""
        less = " and ".join(class_set[index].name for index in self.without)
        return class_set[self.index].name + inside + (f" without {less}" if less else "")

    @property
    def classes(self) -> tuple[int, ...]:
        return (self.index, *((self.within,) if self.within else ()), *self.without)


@dataclass(frozen=True)
class Piece:
    """Some tokens and what they are together.

    `kind` is "noun" (a class or group), "lesion" (a word that means a class only beside an organ), "side", "filler",
    "link", "separator", "or", "without", "except", "pronoun", "region", "only", "refused", "unknown", or a mark:
    "stop", "comma", "break"; `custom.prompts.grammar` adds "adding" and "misplaced". `structures` are those of a noun,
    lesion word or side; `open` marks groups that mean "all".
    """

    kind: str
    tokens: tuple[Token, ...]
    structures: tuple[Structure, ...] = ()
    open: bool = False

    @property
    def words(self) -> Words:
        return words_of(self.tokens)

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(structure.index for structure in self.structures))

    def typed(self, text: str) -> str:
        return text[self.tokens[0].start : self.tokens[-1].end]


class Lexicon:
    """The kind and meaning of every word and phrase of a class set."""

    def __init__(self, class_set: ClassSet) -> None:
        language = class_set.language
        self.class_set = class_set
        self.nouns = {_key(phrase): members for phrase, members in (class_set.aliases | class_set.phrases).items()}
        self.open = set(map(_key, class_set.open_phrases))
        self.lesions = {_key(phrase): members for phrase, members in class_set.lesion_words.items()}
        self.lesion_classes = frozenset().union(*self.lesions.values())
        self.kinds: dict[Words, str] = {(mark,): kind for kind, marks in _MARKS.items() for mark in marks}
        for kind in ("filler", "link", "separator", "or", "without", "except", "pronoun", "region", "refused", "only"):
            self.kinds |= dict.fromkeys(map(_key, getattr(language, f"{kind}_words")), kind)
        self.technique = frozenset(map(_key, language.technique_words))
        self.kinds |= dict.fromkeys(self.technique, "filler")
        self.kinds[("and",)] = "separator"
        self.adding = frozenset(map(_key, language.adding_words))
        self.sides: dict[str, tuple[int, ...]] = {}
        for side in sorted({item.side for item in class_set if item.side}):
            words = map(fold, (side, *language.side_words.get(side, ())))
            self.sides |= dict.fromkeys(words, tuple(item.index for item in class_set if item.side == side))
        self.kinds |= dict.fromkeys(self.lesions, "lesion") | {(word,): "side" for word in self.sides}
        self.adjectives = frozenset(map(_key, language.adjectives))
        self.shared_nouns = frozenset(map(_key, language.shared_nouns))
        self.longest = max(len(phrase) for phrase in (*self.nouns, *self.kinds))

    @cached_property
    def known(self) -> frozenset[str]:
        """Words that are never corrected: those of the class set, and real words that look like a misspelt one of them.

        Words that occur only within an alias are not among them: "intestin" is right before "grêle", alone it is not.
        """
        phrases = [*map(_key, self.class_set.phrases), *self.kinds, *(words for words in self.nouns if len(words) == 1)]
        words = {word for phrase in phrases for word in phrase}
        return frozenset(words | {fold(word) for word in self.class_set.language.never_corrected})

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return self.known.union(word for phrase in self.nouns for word in phrase)

    @cached_property
    def correctable(self) -> tuple[str, ...]:
        """The words that a mistyped one may be corrected to, none of them short: "lever" is not "liver"."""
        others = [words for words, kind in self.kinds.items() if kind in ("lesion", "without", "except")]
        return tuple(sorted({word for words in (*self.nouns, *others) for word in words if len(word) >= 6}))

    def read(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        """Cut tokens into pieces, each the longest possible; a noun is preferred to others of its length."""
        at = 0
        while at < len(tokens):
            rest = tokens[at : at + 200]  # a bound, so that long prompts are read quickly
            other = self._other(rest)
            noun = self._noun(rest) or (self._sided(rest) if other.kind == "side" else None)
            piece = noun if noun and len(noun.tokens) >= len(other.tokens) else other
            yield piece
            at += len(piece.tokens)

    def _nouns(self, tokens: Sequence[Token]) -> Iterator[Piece]:
        for count in range(min(self.longest, len(tokens)), 0, -1):
            words = words_of(tokens[:count])
            if indices := self.nouns.get(words):
                yield _piece("noun", tokens[:count], indices, words in self.open)

    def _noun(self, tokens: Sequence[Token]) -> Piece | None:
        """Return the longest noun at the beginning, with a side behind it: "kidney (left)", "kidney, left"."""
        noun = next(self._nouns(tokens), None)
        if noun is None:
            return None
        behind = [token.word for token in tokens[len(noun.tokens) : len(noun.tokens) + 3]]
        bracketed = len(behind) == 3 and (behind[0], behind[2]) == ("(", ")")
        after_comma = behind[:1] == [","] and all(self.kinds.get((word,)) == "stop" for word in behind[2:])
        members = set(self.sides.get("".join(behind[1:2] if bracketed or after_comma else behind[:1]), ()))
        if not (self._sided_all(noun) and set() < members & set(noun.indices) < set(noun.indices)):
            return noun
        length = len(noun.tokens) + (3 if bracketed else 2 if after_comma else 1)
        return _piece("noun", tokens[:length], [index for index in noun.indices if index in members])

    def _sided(self, tokens: Sequence[Token]) -> Piece | None:
        """Return the noun of "left and right kidney(s)": sides, then the longest group with classes on each of them."""
        sides: list[str] = []
        at = 0
        for ahead, token in enumerate(tokens, start=1):
            if token.word in self.sides:
                sides.append(token.word)
                at = ahead
            elif (kind := self.kinds.get((token.word,))) not in ("separator", "comma", "break", "filler") or (
                sides and kind == "filler" and (token.word,) in self.adding  # without the left, show the right kidney
            ):
                break
        for group in self._nouns(tokens[at:]):
            if self._sided_all(group) and not any(set(self.sides[s]).isdisjoint(group.indices) for s in sides):
                indices = dict.fromkeys(index for side in sides for index in group.indices if index in self.sides[side])
                return _piece("noun", (*tokens[:at], *group.tokens), indices)
        return None

    def _sided_all(self, noun: Piece) -> bool:
        """Whether every class of a noun has a side: of kidneys, not of organs."""
        return all(self.class_set[index].side for index in noun.indices)

    def _other(self, tokens: Sequence[Token]) -> Piece:
        """Return the longest words other than nouns that the tokens begin with, or their first word as unknown."""
        for count in range(min(self.longest, len(tokens)), 0, -1):
            words = words_of(tokens[:count])
            if kind := self.kinds.get(words):
                indices = self.lesions.get(words, ()) if kind == "lesion" else self.sides.get(words[0], ())
                return _piece(kind, tokens[:count], indices)
        return _piece("unknown", tokens[:1])


lexicon_of = lru_cache(maxsize=8)(Lexicon)


def tokenise(text: str) -> list[Token]:
    """Cut a text into words and marks, without hyphens within words and French elisions."""
    found = [(fold(m[0]) or m[0], m.start(), m.end()) for m in _TOKEN.finditer(text) if m.lastgroup != "skip"]
    return [Token("and" if word in ("&", "+") else word, start, end) for word, start, end in found]


def words_of(tokens: Iterable[Token]) -> Words:
    """Return the words of some tokens."""
    return tuple(token.word for token in tokens)


def _piece(kind: str, tokens: Sequence[Token], indices: Iterable[int] = (), is_open: bool = False) -> Piece:
    return Piece(kind, tuple(tokens), tuple(map(Structure, indices)), is_open)


def _key(phrase: str) -> Words:
    return words_of(tokenise(phrase))
