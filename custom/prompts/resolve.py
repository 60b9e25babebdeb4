"""Prompts understood: from a text to the classes to decode and the masks to write."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from custom.anatomy.class_set import ClassSet
from custom.prompts.exclusions import Requested, interpret
from custom.prompts.grammar import PromptError, parse
from custom.prompts.lexicon import Lexicon, Structure, Token, lexicon_of, tokenise
from custom.prompts.sentences import write_sentence
from custom.prompts.typos import corrected

MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class Resolution:
    """What a prompt requests.

    `structures` are the masks to write, `indices` the 1-based classes to decode for them, both in order of first
    mention; `matches` holds each phrase as typed and its classes, `corrections` each mistyped word and what it was read
    as, `left_out` the classes of open groups ("all organs") that are not available.
    """

    text: str
    indices: tuple[int, ...]
    matches: tuple[tuple[str, tuple[int, ...]], ...]
    structures: tuple[Structure, ...]
    corrections: tuple[tuple[str, str], ...] = ()
    left_out: tuple[int, ...] = ()

    def titles(self, class_set: ClassSet) -> tuple[str, ...]:
        """Return the name of each mask."""
        return tuple(structure.title(class_set) for structure in self.structures)

    def explain(self, class_set: ClassSet) -> list[str]:
        """Return lines for the user that state how the prompt was read."""
        lines = [f"Understood: {', '.join(self.titles(class_set))}."]
        lines += [f"Read {typed!r} as {word!r}." for typed, word in self.corrections]
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
    example = '--prompt "liver, spleen"'
    raise PromptError(f"A prompt must be a text or a list of texts, not {value!r:.80}: for example {example}.")


def resolve_prompt(text: str, class_set: ClassSet, available: Collection[int] | None = None) -> Resolution:
    """Return what a prompt requests.

    Case, accents and hyphens do not matter; the longest name wins; one typing error in a long word is corrected.

    Args:
        text: the prompt.
        class_set: gives the words their meaning.
        available: 1-based classes that the weights know; groups that say "all" mean only these. None means all.

    Raises:
        UnknownOrganError: unknown words, quoted beside the nearest names.
        PromptError: anything else that cannot be carried out.
    """
    text = _plain_text(text)
    requested, corrections = _understand(text, tokenise(text), lexicon_of(class_set))
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
    )


def _plain_text(prompt: object) -> str:
    text = unicodedata.normalize("NFC", normalise_prompt(prompt)).strip()
    if len(text) > MAX_CHARACTERS:
        raise PromptError(f"A prompt must have at most {MAX_CHARACTERS} characters, not {len(text)}: shorten it.")
    if odd := [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\t\r\n"]:
        raise PromptError(f"A prompt must have no control characters, not {odd[0]!a}: type it as plain text.")
    return text


Corrections = tuple[tuple[str, str], ...]


def _understand(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> tuple[Requested, Corrections]:
    """Read a prompt as typed, or if it has unknown words, in the only way of correcting them that has meaning."""
    readings: dict[tuple[Structure, ...], tuple[Requested, Corrections]] = {}
    errors: list[PromptError] = []
    for spelled in corrected(tokens, lexicon):
        pairs = tuple(
            dict.fromkeys((text[a.start : a.end], b.word) for a, b in zip(tokens, spelled, strict=True) if a != b)
        )
        try:
            requested = _read(text, spelled, lexicon)
        except PromptError as error:
            errors.append(error)
            continue
        if not pairs:
            return requested, ()
        meaning = tuple(structure for _, structures in requested for structure in structures)
        if meaning not in readings or len(pairs) < len(readings[meaning][1]):
            readings[meaning] = (requested, pairs)
    if len(readings) == 1:
        return next(iter(readings.values()))
    if errors and not readings:
        raise errors[0]
    return _read(text, tokens, lexicon), ()


def _read(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> Requested:
    items = parse(text, tokens, lexicon)
    if all(item.kind != "noun" for item in items):
        example = write_sentence(lexicon.class_set, range(1, min(2, len(lexicon.class_set)) + 1), template=0)
        raise PromptError(f'A prompt must name a structure, not {text!r:.80}: for example "{example}".')
    return interpret(text, items, lexicon)
