"""Prompts: sentences that name classes, and what a sentence names.

A prompt is understood only when every word of it is: the name of a structure, a word that separates structures, or a
filler word around them. Anything else is refused with words, never guessed. The words are data (`Language` in
`custom.anatomy`): a synonym or another way of asking is a line in the class set's JSON file.

- `filler_words` mean nothing ("please", "scan"); `separator_words` stand between structures ("and", "as well as").
- `link_words` ("of", "in") are fillers too, except from one structure to the next: "aorta in the liver" is refused.
- `refused_words` ask for something that is not understood yet ("without", "part").
- `adjectives` ("hepatic") mean their organ alone, but not before another structure: "hepatic stomach" is refused.
- `shared_nouns` are plurals that may belong to two structures: "spleen and liver tumors" is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from custom.anatomy import HYPHENS, ClassSet, fold

MAX_CHARACTERS = 2000
_TOKEN = re.compile(rf"[^\W_]+(?:['\u2019][^\W_]+)*|(?P<hyphen>(?<=\w)[{HYPHENS}](?=\w))|\n|[^\w\s]|_")
_BREAKS = ("...", *",;:.!?/|()[]{}\"'“”«»、。—\n\u2018\u2019")
_AND = {"&": "and", "+": "and"}
Words = tuple[str, ...]


class PromptError(ValueError):
    """A prompt that cannot be obeyed as it stands."""


class UnknownOrganError(PromptError):
    """A prompt with a word that means nothing in this class set."""


@dataclass(frozen=True)
class Resolution:
    """What a prompt names: 1-based classes in order of first mention, and for each phrase as typed its classes."""

    text: str
    indices: tuple[int, ...]
    matches: tuple[tuple[str, tuple[int, ...]], ...]


def write_sentence(
    class_set: ClassSet, indices: Sequence[int], *, template: int = 0, names: Sequence[str] | None = None
) -> str:
    """Return the sentence that names these classes (1-based) in this order, by `names` (synonyms) where given."""
    _check_indices(class_set, indices)
    templates = class_set.sentence_templates
    if not 0 <= template < len(templates):
        raise ValueError(f"`template` must be in 0..{len(templates) - 1}, not {template}: choose a sentence template.")
    canonical = [class_set[index].name for index in indices]
    words = canonical if names is None else list(names)
    if [class_set.index(word) for word in words] != list(indices):
        raise ValueError(f"`names` must be one synonym for each of {canonical}, not {words}: correct the names.")
    return templates[template].replace("{names}", ", ".join(words))


def sample_sentence(class_set: ClassSet, indices: Sequence[int], rng: np.random.RandomState) -> str:
    """Return a random sentence that `resolve_prompt` understands as exactly these classes, in any order."""
    _check_indices(class_set, indices)
    phrases: list[str] = []
    left = {int(index) for index in indices}
    groups = {members for members in class_set.groups.values() if len(members) > 1 and left.issuperset(members)}
    if groups and rng.randint(2):
        members = sorted(groups)[rng.randint(len(groups))]
        phrases.append(_choose([p for p, meant in class_set.groups.items() if meant == members], class_set, rng))
        left.difference_update(members)
    for index in sorted(left):
        item = class_set[index]
        phrases.append(_choose(item.synonyms, class_set, rng) if item.synonyms and rng.randint(2) else item.name)
    rng.shuffle(phrases)
    template = rng.randint(len(class_set.sentence_templates))
    lists = [", ".join(phrases)]
    if len(phrases) > 1 and rng.randint(2):  # "liver and pancreas tumor" has two readings; with a comma it has one
        lists.insert(0, f"{', '.join(phrases[:-1])} and {phrases[-1]}")
    for names in lists:
        sentence = class_set.sentence_templates[template].replace("{names}", names)
        with suppress(PromptError):
            if set(resolve_prompt(sentence, class_set).indices) == set(indices):
                return sentence
    return write_sentence(class_set, indices, template=template)


def normalise_prompt(value: object) -> str:
    """Return a prompt as one text: a command line makes a tuple of "liver, spleen", a list of "[liver]"."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(part, list | tuple) for part in value):
        return ", ".join(normalise_prompt(part) for part in value)
    raise PromptError(f'A prompt must be a text or a list of texts, not {value!r:.80}: write one like "liver, spleen".')


def resolve_prompt(text: str, class_set: ClassSet) -> Resolution:
    """Return the classes that a prompt names.

    Case, accents and hyphens do not matter; the longest name wins. Raises `UnknownOrganError` for words that are not
    known, quoting them beside the nearest names, and `PromptError` for whatever else cannot be obeyed.
    """
    text = unicodedata.normalize("NFC", normalise_prompt(text)).strip()
    if len(text) > MAX_CHARACTERS:
        raise PromptError(f"A prompt must have at most {MAX_CHARACTERS} characters, not {len(text)}: ask in several.")
    if odd := [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\t\r\n"]:
        raise PromptError(f"A prompt must have no control characters, not {odd[0]!a}: type it as plain text.")
    lexicon = _lexicon(class_set)
    pieces = list(_read(_tokens(text), lexicon))
    _refuse_words(text, pieces, class_set)
    named = [at for at, piece in enumerate(pieces) if piece.kind == "structure"]
    if not named:
        example = write_sentence(class_set, range(1, min(2, len(class_set)) + 1), template=0)
        raise PromptError(f'A prompt must name a structure, not {text!r:.80}: for example "{example}".')
    for at, following in pairwise(named):
        _refuse_relation(text, pieces[at : following + 1], lexicon)
    matches = tuple((pieces[at].typed(text), pieces[at].indices) for at in named)
    return Resolution(text, tuple(dict.fromkeys(index for _, meant in matches for index in meant)), matches)


class _Token(NamedTuple):
    word: str
    start: int
    end: int


@dataclass(frozen=True)
class _Piece:
    """Some tokens and what they are: structure, filler, link, separator, refused, break or unknown."""

    kind: str
    tokens: tuple[_Token, ...]
    indices: tuple[int, ...] = ()

    @property
    def words(self) -> Words:
        return _words(self.tokens)

    def typed(self, text: str) -> str:
        return text[self.tokens[0].start : self.tokens[-1].end]


@dataclass(frozen=True)
class _Lexicon:
    structures: dict[Words, tuple[int, ...]]
    sides: dict[str, frozenset[int]]
    words: dict[Words, str]
    adjectives: frozenset[Words]
    shared_nouns: frozenset[Words]
    longest: int

    def structure(self, tokens: Sequence[_Token]) -> _Piece | None:
        """Return the longest structure that the tokens begin with."""
        for count in range(min(self.longest, len(tokens)), 0, -1):
            if indices := self.structures.get(_words(tokens[:count])):
                return _Piece("structure", tuple(tokens[:count]), indices)
        return None

    def other(self, tokens: Sequence[_Token]) -> _Piece:
        """Return the longest other words that the tokens begin with, or their first word as unknown."""
        for count in range(min(self.longest, len(tokens)), 0, -1):
            if kind := self.words.get(_words(tokens[:count])):
                return _Piece(kind, tuple(tokens[:count]))
        return _Piece("unknown", tuple(tokens[:1]))

    def sided(self, tokens: Sequence[_Token]) -> _Piece | None:
        """Return the structures of "left and right kidney(s)": sides, then one group phrase that has them."""
        sides: list[str] = []
        at = 0
        for ahead, token in enumerate(tokens):
            if token.word in self.sides:
                sides.append(token.word)
                at = ahead + 1
            elif not sides or self.words.get((token.word,)) not in ("separator", "break", "filler"):
                break
        group = self.structure(tokens[at:]) if sides else None
        if group is None or any(self.sides[side].isdisjoint(group.indices) for side in sides):
            return None
        indices = dict.fromkeys(index for side in sides for index in group.indices if index in self.sides[side])
        return _Piece("structure", (*tokens[:at], *group.tokens), tuple(indices))


@lru_cache(maxsize=8)
def _lexicon(class_set: ClassSet) -> _Lexicon:
    def keys(phrases: Iterable[str]) -> list[Words]:
        return [_words(_tokens(phrase)) for phrase in phrases]

    structures = dict(zip(keys(class_set.phrases), class_set.phrases.values(), strict=True))
    words: dict[Words, str] = {(mark,): "break" for mark in _BREAKS}
    for kind in ("filler", "link", "separator", "refused"):
        words |= dict.fromkeys(keys(getattr(class_set.language, f"{kind}_words")), kind)
    words[("and",)] = "separator"
    sides = dict.fromkeys(item.side for item in class_set if item.side)
    return _Lexicon(
        structures=structures,
        sides={fold(side): frozenset(item.index for item in class_set if item.side == side) for side in sides},
        words=words,
        adjectives=frozenset(keys(class_set.language.adjectives)),
        shared_nouns=frozenset(keys(class_set.language.shared_nouns)),
        longest=max(len(phrase) for phrase in (*structures, *words)),
    )


def _words(tokens: Sequence[_Token]) -> Words:
    return tuple(token.word for token in tokens)


def _tokens(text: str) -> list[_Token]:
    return [_Token(_word(m[0]), m.start(), m.end()) for m in _TOKEN.finditer(text) if m.lastgroup != "hyphen"]


def _word(typed: str) -> str:
    word = fold(typed) or typed
    return _AND.get(word, word)


def _read(tokens: list[_Token], lexicon: _Lexicon) -> Iterator[_Piece]:
    at = 0
    while at < len(tokens):
        rest = tokens[at : at + 200]
        other = lexicon.other(rest)
        structure = lexicon.structure(rest) or (lexicon.sided(rest) if other.kind == "unknown" else None)
        piece = structure if structure and len(structure.tokens) >= len(other.tokens) else other
        yield piece
        at += len(piece.tokens)


def _refuse_words(text: str, pieces: Sequence[_Piece], class_set: ClassSet) -> None:
    if refused := [piece.typed(text) for piece in pieces if piece.kind == "refused"]:
        rule = "A prompt must name whole structures; negations, parts, places and choices are not understood yet"
        raise PromptError(f"{rule}, not {_quoted(refused)}: name the structures you want instead.")
    if not (unknown := [at for at, piece in enumerate(pieces) if piece.kind == "unknown"]):
        return
    near: list[str] = []
    for at in unknown[:5]:
        around = [p for p in pieces[max(at - 1, 0) : at + 2] if p.kind in ("structure", "unknown")]
        near += class_set.nearest(pieces[at].words[0]) + class_set.nearest(" ".join(p.typed(text) for p in around))[:2]
    names = ", ".join(list(dict.fromkeys(near))[:8] or class_set.names)
    rule = f"Every word of a prompt must be known, not {_quoted([pieces[at].typed(text) for at in unknown])}"
    raise UnknownOrganError(f"{rule} in {text!r:.80}. Nearest names: {names}. Separate names with commas.")


def _refuse_relation(text: str, pieces: Sequence[_Piece], lexicon: _Lexicon) -> None:
    """Refuse two successive structures (first and last of `pieces`) that may mean more than each by itself."""
    first, last, between = pieces[0], pieces[-1], {piece.kind for piece in pieces[1:-1]}
    one, two = first.typed(text), last.typed(text)
    if "link" in between and between <= {"link", "filler"}:
        rule = "A prompt must name structures by themselves; where one lies in another is not understood yet"
        both = text[first.tokens[0].start : last.tokens[-1].end]
        raise PromptError(f'{rule}, not "{both}": name the structures you want instead.')
    if between <= {"separator"} and _has_two_readings(first, last, lexicon, adjacent=not between):
        remedy = f'separate them with a comma, "{one}, {two}", or write both names in full'
        raise PromptError(f'A prompt must have one reading, not two as "{one}" beside "{two}" has: {remedy}.')


def _has_two_readings(first: _Piece, last: _Piece, lexicon: _Lexicon, *, adjacent: bool) -> bool:
    one, two, meaning = first.words, last.words, lexicon.structures
    ones, twos = set(first.indices), set(last.indices)
    for cut in range(1, len(two)):  # liver and pancreas tumor
        if not ones | twos >= set(meaning.get(one + two[cut:], ())):
            return True
    for cut in range(1, len(one)):  # left kidney and lung
        shared = set(meaning.get(one[:cut] + two, twos))
        if shared != twos and not shared <= ones:
            return True
        linked = any(lexicon.words.get((word,)) == "link" for word in one[:cut])
        if linked and not ones >= set(meaning.get(one[cut:], ())):  # vessels of the liver and spleen
            return True
        crossing = lexicon.structure((*first.tokens[cut:], *last.tokens))
        if adjacent and crossing and cut + len(crossing.tokens) > len(one):  # kidney left lung
            return True
    if one in lexicon.adjectives and two not in lexicon.adjectives:  # gastric and colon tumor
        return True
    if two[-1:] not in lexicon.shared_nouns or any(not ones >= set(meaning.get(one[:n], ())) for n in range(len(one))):
        return False
    nouns = [two[:cut] for cut in range(1, len(two)) if two[:cut] not in lexicon.adjectives]
    return any(not ones | twos >= set(meaning.get(noun, ())) for noun in nouns)  # spleen and liver tumors


def _choose(phrases: Sequence[str], class_set: ClassSet, rng: np.random.RandomState) -> str:
    nouns = [phrase for phrase in phrases if phrase not in class_set.language.adjectives] or phrases
    return nouns[rng.randint(len(nouns))]


def _check_indices(class_set: ClassSet, indices: Sequence[int]) -> None:
    if len(indices) == 0 or len({i for i in indices if 1 <= i <= len(class_set)}) < len(indices):
        rule = f"A sentence must name at least one class, each once and in 1..{len(class_set)}"
        raise ValueError(f"{rule}, not {list(indices)!r:.80}: correct the indices.")


def _quoted(typed: Sequence[str]) -> str:
    words = list(dict.fromkeys(typed))
    return ", ".join(f'"{word:.40}"' for word in words[:5]) + (", ..." if len(words) > 5 else "")
