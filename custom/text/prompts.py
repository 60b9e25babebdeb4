"""Prompts: sentences that name classes, and what a sentence asks for.

`custom.text.lexicon` knows the words, `grammar` what they mean together, `exclusions` what is left out, `typos` what a
mistyped word meant.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from custom.anatomy import ClassSet
from custom.text.exclusions import interpret
from custom.text.grammar import Noun, PromptError, Structure, UnknownOrganError, parse
from custom.text.lexicon import Lexicon, Token, lexicon_of, tokenise
from custom.text.typos import corrected

__all__ = [
    "PromptError",
    "Resolution",
    "Structure",
    "UnknownOrganError",
    "held_out_sentence",
    "normalise_prompt",
    "resolve_prompt",
    "sample_sentence",
    "write_sentence",
]

MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class Resolution:
    """What a prompt asks for.

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
        """Return what each mask is called."""
        return tuple(structure.title(class_set) for structure in self.structures)

    def explain(self, class_set: ClassSet) -> list[str]:
        """Return lines for the user: how the prompt was read."""
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
    template = class_set.sentence_templates[rng.randint(len(class_set.sentence_templates))]
    for sentence in _listings(phrases, template, rng):
        if _means(sentence, indices, class_set):
            return sentence
    return template.replace("{names}", ", ".join(class_set[index].name for index in indices))


def held_out_sentence(class_set: ClassSet, indices: Sequence[int], rng: np.random.RandomState) -> str:
    """Return a random sentence of phrases and a template that `sample_sentence` never draws, meaning these classes.

    Args:
        class_set: which holds phrases of these classes and templates out.
        indices: 1-based classes.
        rng: what is drawn from.

    Raises:
        ValueError: an index that is no class, or twice; or no held-out phrases of these can stand in one sentence.
    """
    _check_indices(class_set, indices)
    phrases = [_choose(class_set[index].held_out, class_set, rng) for index in indices]
    rng.shuffle(phrases)
    template = class_set.held_out_templates[rng.randint(len(class_set.held_out_templates))]
    for sentence in _listings(phrases, template, rng):
        if _means(sentence, indices, class_set):
            return sentence
    raise ValueError(f"Held-out phrases must be understood in a list, not {sentence!r}: hold out others.")


def normalise_prompt(value: object) -> str:
    """Return a prompt as one text: a command line makes a tuple of "liver, spleen", a list of "[liver]"."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple) and not any(isinstance(part, list | tuple) for part in value):
        return ", ".join(normalise_prompt(part) for part in value)
    example = '--prompt "liver, spleen"'
    raise PromptError(f"A prompt must be a text or a list of texts, not {value!r:.80}: for example {example}.")


def resolve_prompt(text: str, class_set: ClassSet, available: Collection[int] | None = None) -> Resolution:
    """Return what a prompt asks for.

    Case, accents and hyphens do not matter; the longest name wins; one typing error in a long word is corrected.

    Args:
        text: the prompt.
        class_set: what the words mean.
        available: 1-based classes that can be had; of groups that say "all" only these are meant. None means all.

    Raises:
        UnknownOrganError: words that are not known, quoted beside the nearest names.
        PromptError: whatever else cannot be obeyed.
    """
    text = unicodedata.normalize("NFC", normalise_prompt(text)).strip()
    if len(text) > MAX_CHARACTERS:
        raise PromptError(f"A prompt must have at most {MAX_CHARACTERS} characters, not {len(text)}: ask in several.")
    if odd := [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\t\r\n"]:
        raise PromptError(f"A prompt must have no control characters, not {odd[0]!a}: type it as plain text.")
    lexicon = lexicon_of(class_set)
    asked, corrections = _understand(text, tokenise(text), lexicon)
    wanted: dict[Structure, None] = {}
    left_out: dict[int, None] = {}
    for noun, structures in asked:
        for structure in structures:
            if noun.open and available is not None and structure.index not in available:
                left_out[structure.index] = None
            else:
                wanted[structure] = None
    if not wanted:
        known = ", ".join(class_set[index].name for index in sorted(available or ())) or "nothing"
        raise PromptError(f"These weights know nothing of what {text!r:.80} asks for; they know {known}.")
    return Resolution(
        text,
        indices=tuple(dict.fromkeys([s.index for s in wanted] + [i for s in wanted for i in s.classes])),
        matches=tuple((noun.typed(text), noun.indices) for noun, _ in asked),
        structures=tuple(wanted),
        corrections=corrections,
        left_out=tuple(index for index in left_out if Structure(index) not in wanted),
    )


Asked = list[tuple[Noun, tuple[Structure, ...]]]
Corrections = tuple[tuple[str, str], ...]


def _understand(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> tuple[Asked, Corrections]:
    """Read a prompt as typed, or where words of it are unknown, in the one way of correcting them that has meaning."""
    readings: dict[tuple[Structure, ...], tuple[Asked, Corrections]] = {}
    errors: list[PromptError] = []
    for spelled in corrected(tokens, lexicon):
        pairs = tuple(
            dict.fromkeys((text[a.start : a.end], b.word) for a, b in zip(tokens, spelled, strict=True) if a != b)
        )
        try:
            asked = _read(text, spelled, lexicon)
        except PromptError as error:
            errors.append(error)
            continue
        if not pairs:
            return asked, ()
        meaning = tuple(structure for _, structures in asked for structure in structures)
        if meaning not in readings or len(pairs) < len(readings[meaning][1]):
            readings[meaning] = (asked, pairs)
    if len(readings) == 1:
        return next(iter(readings.values()))
    if errors and not readings:
        raise errors[0]
    return _read(text, tokens, lexicon), ()


def _read(text: str, tokens: Sequence[Token], lexicon: Lexicon) -> Asked:
    items = parse(text, tokens, lexicon)
    if not any(isinstance(item, Noun) for item in items):
        example = write_sentence(lexicon.class_set, range(1, min(2, len(lexicon.class_set)) + 1), template=0)
        raise PromptError(f'A prompt must name a structure, not {text!r:.80}: for example "{example}".')
    return interpret(text, items, lexicon)


def _listings(phrases: Sequence[str], template: str, rng: np.random.RandomState) -> Iterator[str]:
    """Yield a template with these phrases, at random listed with "and" first, and with commas only."""
    if len(phrases) > 1 and rng.randint(2):  # "liver and pancreas tumor" has two readings; with a comma it has one
        yield template.replace("{names}", f"{', '.join(phrases[:-1])} and {phrases[-1]}")
    yield template.replace("{names}", ", ".join(phrases))


def _means(sentence: str, indices: Sequence[int], class_set: ClassSet) -> bool:
    with suppress(PromptError):
        return set(resolve_prompt(sentence, class_set).structures) == set(map(Structure, indices))
    return False


def _choose(phrases: Sequence[str], class_set: ClassSet, rng: np.random.RandomState) -> str:
    nouns = [phrase for phrase in phrases if phrase not in class_set.language.adjectives] or phrases
    return nouns[rng.randint(len(nouns))]


def _check_indices(class_set: ClassSet, indices: Sequence[int]) -> None:
    if len(indices) == 0 or len({i for i in indices if 1 <= i <= len(class_set)}) < len(indices):
        rule = f"A sentence must name at least one class, each once and in 1..{len(class_set)}"
        raise ValueError(f"{rule}, not {list(indices)!r:.80}: correct the indices.")
