"""Prompts understood: from a text to the classes to decode and the masks to write."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from custom.anatomy.class_set import ClassSet
from custom.prompts.exclusions import Requested, interpret
from custom.prompts.grammar import PromptError, parse
from custom.prompts.lexicon import Lexicon, Structure, Token, lexicon_of, tokenise
from custom.prompts.sentences import write_sentence

#: Longer prompts, and those with more possible corrections, are refused.
_MOST_CHARACTERS, _MOST_SPELLINGS = 2000, 64

Corrections = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Resolution:
    """What a prompt requests.

    `structures` are the masks to write, `indices` the 1-based classes to decode for them, both in order of first
    mention; `matches` holds each phrase as typed and its classes, `corrections` each mistyped word and what it was read
    as, `left_out` the classes of open groups ("all organs") that are not available, `passed_over` words on how the
    image was made ("portal venous phase"), which say nothing of what is in it.
    """

    text: str
    indices: tuple[int, ...]
    matches: tuple[tuple[str, tuple[int, ...]], ...]
    structures: tuple[Structure, ...]
    corrections: Corrections = ()
    left_out: tuple[int, ...] = ()
    passed_over: tuple[str, ...] = ()

    def titles(self, class_set: ClassSet) -> tuple[str, ...]:
        return tuple(structure.title(class_set) for structure in self.structures)

    def explain(self, class_set: ClassSet) -> list[str]:
        """Lines for the user that state how the prompt was read."""
        lines = [f"Understood: {', '.join(self.titles(class_set))}."]
        lines += [f"Read {typed!r} as {word!r}." for typed, word in self.corrections]
        lines += [f"Passed over {typed!r}: it says how the image was made." for typed in self.passed_over]
        for typed, meant in self.matches:
            if missing := set(meant).intersection(self.left_out):
                known = f"these weights know {len(meant) - len(missing)} of {len(meant)}"
                lines.append(f"{typed}: {known}; without {', '.join(class_set[i].name for i in sorted(missing))}.")
        named = {index for _, meant in self.matches for index in meant}
        if excluded := named.difference(self.left_out, (structure.index for structure in self.structures)):
            lines.append(f"Excluded: {', '.join(class_set[i].name for i in sorted(excluded))}.")
        return lines


def normalise_prompt(value: object) -> str:
    """Return a prompt as one text: a command line makes a tuple of "liver, spleen", a list of "[liver]"."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(part, list | tuple) for part in value):
        return ", ".join(normalise_prompt(part) for part in value)
    rule = f"A prompt must be a text or a list of texts, not {value!r:.80}"
    raise PromptError(f'{rule}: for example --prompt "liver, spleen".')


def resolve_prompt(text: str, class_set: ClassSet, available: Collection[int] | None = None) -> Resolution:
    """Return what a prompt requests, where groups that say "all" mean the classes (1-based) `available`, None any.

    Case, accents and hyphens do not matter; the longest name wins; one typing error in a long word is corrected.
    PromptError if it cannot be carried out: UnknownOrganError for unknown words, quoted beside the nearest names.
    """
    text = unicodedata.normalize("NFC", normalise_prompt(text)).strip()
    if len(text) > _MOST_CHARACTERS:
        raise PromptError(f"A prompt must have at most {_MOST_CHARACTERS} characters, not {len(text)}: shorten it.")
    if odd := [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\t\r\n"]:
        raise PromptError(f"A prompt must have no control characters, not {odd[0]!a}: type it as plain text.")
    tokens, lexicon = tokenise(text), lexicon_of(class_set)
    requested, corrections = _understand(text, tokens, lexicon)
    passed_over = [piece.typed(text) for piece in lexicon.read(tokens) if piece.words in lexicon.technique]
    known: Collection[int] = range(1, len(class_set) + 1) if available is None else available
    found = [(structure, noun.open and structure.index not in known) for noun, kept in requested for structure in kept]
    wanted = dict.fromkeys(structure for structure, missing in found if not missing)
    left_out = dict.fromkeys(s.index for s, missing in found if missing and Structure(s.index) not in wanted)
    if not wanted:
        names = ", ".join(class_set[index].name for index in sorted(known)) or "nothing"
        raise PromptError(f"These weights know nothing of what {text!r:.80} requests; they know {names}.")
    return Resolution(
        text,
        indices=tuple(dict.fromkeys([s.index for s in wanted] + [i for s in wanted for i in s.classes])),
        matches=tuple((noun.typed(text), noun.indices) for noun, _ in requested),
        structures=tuple(wanted),
        corrections=corrections,
        left_out=tuple(left_out),
        passed_over=tuple(dict.fromkeys(passed_over)),
    )


def _understand(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> tuple[Requested, Corrections]:
    """Read a prompt as typed, or if it has unknown words, in the only way of correcting them that has meaning."""
    readings: dict[tuple[Structure, ...], tuple[Requested, Corrections]] = {}
    errors: list[PromptError] = []
    choices = [_spellings(token.word, lexicon) for token in tokens]
    for words in product(*choices) if prod(map(len, choices)) <= _MOST_SPELLINGS else ():
        spelled = [token._replace(word=word) for token, word in zip(tokens, words, strict=True)]
        changed = [new for old, new in zip(tokens, spelled, strict=True) if new != old]
        corrections = tuple(dict.fromkeys((text[token.start : token.end], token.word) for token in changed))
        try:
            requested = _read(text, spelled, lexicon)
        except PromptError as error:
            errors.append(error)
            continue
        if not corrections:
            return requested, ()
        meaning = tuple(structure for _, structures in requested for structure in structures)
        if meaning not in readings or len(corrections) < len(readings[meaning][1]):
            readings[meaning] = (requested, corrections)
    if len(readings) == 1:
        return next(iter(readings.values()))
    if errors and not readings:
        raise errors[0]
    return _read(text, tokens, lexicon), ()


def _spellings(word: str, lexicon: Lexicon) -> list[str]:
    near = [] if word in lexicon.known else [other for other in lexicon.correctable if is_one_edit(word, other)]
    return [word, *near] if word in lexicon.vocabulary else near


def is_one_edit(typed: str, word: str) -> bool:
    """Whether inserting, deleting or replacing one letter, or exchanging two neighbours, makes `word` of `typed`."""
    if typed == word or abs(len(typed) - len(word)) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(typed, word, strict=False)) if a != b), min(len(typed), len(word)))
    one, two = typed[start:], word[start:]
    return one[1:] == two or one == two[1:] or one[1:] == two[1:] or (one[:2] == two[1::-1] and one[2:] == two[2:])


def _read(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> Requested:
    items = parse(text, tokens, lexicon)
    if all(item.kind != "noun" for item in items):
        example = write_sentence(lexicon.class_set, range(1, min(2, len(lexicon.class_set)) + 1))
        raise PromptError(f'A prompt must name a structure, not {text!r:.80}: for example "{example}".')
    return interpret(text, items, lexicon)
