"""The structures a network can segment, read from a JSON file: another organ, language or modality is another file."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

HYPHENS = r"\-_\u2010\u2011\u2013"


@dataclass(frozen=True)
class Code:
    """A SNOMED CT code (DICOM scheme designator `SCT`)."""

    value: str
    meaning: str


@dataclass(frozen=True)
class AnatomicalClass:
    """One structure: how it is written, coded and drawn.

    `index` is 1-based: output channel `index - 1`, voxel value `index` in a merged label map. `laterality` is given
    only where `snomed` itself has no side (or end: anterior). `snomed`, `laterality`, `region` and `category` are
    DICOM's segmented property type, its modifier, anatomic region and segmented property category: a liver tumor is a
    neoplasm, in the liver, abnormal.
    `synonyms` are what training samples; `aliases` (other languages, abbreviations) and `held_out` are understood and
    never sampled: in the latter evaluation asks what unseen words cost.
    `part_of` names the classes whose voxels include this one's: the kidneys, of a kidney tumor.
    `cleanup` is a rule of `custom.transforms.postprocessing`, with the class it refers to: ("not below", "pancreas").
    """

    index: int
    name: str
    synonyms: tuple[str, ...]
    side: str | None
    snomed: Code
    laterality: Code | None
    color: tuple[int, int, int]
    region: Code | None = None
    category: Code = Code("91723000", "Anatomical Structure")
    aliases: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Language:
    """The words around the names in a prompt, as `custom.prompts.grammar` reads them.

    - `filler_words` mean nothing ("please", "scan"), `link_words` ("of") only between a lesion and its organ;
    - `separator_words` stand between structures ("and", "as well as"), `or_words` only between those left out;
    - `without_words` leave out what follows ("but not"); so do `except_words` ("but"), which must then take some away;
    - `adding_words` are those of the fillers and separators that ask for more after what is left out ("with", "show");
    - `side_words` say a side in other words, and `pronoun_words` may follow one ("not the left one");
    - `region_words` ("chest") narrow no group; `refused_words` ask for what is not understood yet ("lobe", "near");
    - `adjectives` ("hepatic") mean their organ alone, but not before another structure: "hepatic stomach" is refused;
    - `shared_nouns` are plurals that may belong to two structures: "spleen and liver tumors" is refused;
    - `never_corrected` are real words that look like a typing error of ours ("rectus").
    """

    filler_words: tuple[str, ...] = ()
    link_words: tuple[str, ...] = ()
    separator_words: tuple[str, ...] = ()
    or_words: tuple[str, ...] = ()
    without_words: tuple[str, ...] = ()
    except_words: tuple[str, ...] = ()
    adding_words: tuple[str, ...] = ()
    side_words: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    pronoun_words: tuple[str, ...] = ()
    region_words: tuple[str, ...] = ()
    refused_words: tuple[str, ...] = ()
    shared_nouns: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()
    never_corrected: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassSet:
    """An ordered set of classes, numbered from 1, with the words and intensities that go with it.

    `groups` maps a phrase to the classes it means, `group_aliases` and `held_out_templates` are never sampled in
    training; `open_phrases` are those that say "all". `lesion_words` maps words that mean a class only beside an organ.
    `intensity_window` is what the network sees, `plausible_intensity` what an image of this modality may hold, in its
    own unit (HU for CT); for one without a unit (MR), `percentiles` says that the window is in percentiles of each
    image's voxels. `spacing` is in mm.
    """

    name: str
    modality: str
    classes: tuple[AnatomicalClass, ...]
    groups: dict[str, tuple[int, ...]] = field(hash=False)
    sentence_templates: tuple[str, ...]
    class_sentence: str
    default_prompt: str
    intensity_window: tuple[float, float]
    spacing: tuple[float, float, float]
    plausible_intensity: tuple[float, float]
    percentiles: bool = False
    language: Language = Language()
    group_aliases: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    open_phrases: frozenset[str] = frozenset()
    held_out_templates: tuple[str, ...] = ()
    lesion_words: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[AnatomicalClass]:
        return iter(self.classes)

    def __getitem__(self, index: int) -> AnatomicalClass:
        if 1 <= index <= len(self):
            return self.classes[index - 1]
        raise IndexError(f"A class index of {self.name!r} must be in 1..{len(self)}, not {index}.")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The canonical names in order."""
        return tuple(item.name for item in self.classes)

    @cached_property
    def phrases(self) -> dict[str, tuple[int, ...]]:
        """Every name, synonym and group in folded spelling -> the classes it means."""
        known = {fold(name): (c.index,) for c in self.classes for name in (c.name, *c.synonyms)}
        return known | {fold(phrase): members for phrase, members in self.groups.items()}

    @cached_property
    def aliases(self) -> dict[str, tuple[int, ...]]:
        """Every alias in each of its spellings ("d\u00fcnndarm", "duenndarm") -> the classes it means."""
        known = self.group_aliases | {a: (item.index,) for item in self for a in (*item.aliases, *item.held_out)}
        return {spelling: members for alias, members in known.items() for spelling in umlaut_spellings(alias)}

    @cached_property
    def wholes(self) -> dict[int, frozenset[int]]:
        """For each class the classes that it is part of."""
        numbers = {item.name: item.index for item in self.classes}
        return {item.index: frozenset(numbers[name] for name in item.part_of) for item in self.classes}

    def index(self, name: str) -> int:
        """Return the 1-based index of the class with this name or synonym; case, accents and hyphens do not matter."""
        if len(members := self.phrases.get(fold(name), ())) == 1:
            return members[0]
        near = ", ".join(self.nearest(name) or self.names)
        raise ValueError(f"A class of {self.name!r} must have a known name, not {name!r}. Nearest: {near}.")

    def opposite(self, index: int) -> int:
        """Return the index of the class on the other side (left for right), or the same where a class has no side."""
        side = {"left": "right", "right": "left"}.get(self[index].side or "", "")
        name = re.sub(r"\b(left|right)\b", side, self[index].name)
        return self.index(name) if side and name in self.names else index

    def nearest(self, text: str, *, limit: int = 6) -> list[str]:
        """Return the known names that contain `text` as words or are spelled like it, best first."""
        key = fold(text)[:80]
        close = difflib.get_close_matches(key, self.phrases, n=limit, cutoff=0.6)
        close += sorted((phrase for phrase in self.phrases if key and f" {key} " in f" {phrase} "), key=len)
        found = (p if len(self.phrases[p]) > 1 else self[self.phrases[p][0]].name for p in close)
        return list(dict.fromkeys(found))[:limit]


def fold(text: str) -> str:
    """Return `text` without case, accents, apostrophes, hyphens and extra blanks: "Gall-Bladder" -> "gall bladder"."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    plain = re.sub("['\u2019]", "", plain.replace("œ", "oe").replace("æ", "ae"))
    return " ".join(re.split(f"[{HYPHENS}\\s]+", plain)).strip()


def umlaut_spellings(word: str) -> tuple[str, ...]:
    """Return a word without accents and, where it has umlauts, with ae, oe and ue for them."""
    typed = unicodedata.normalize("NFC", word).casefold()
    return tuple(dict.fromkeys((fold(typed), fold(typed.translate({228: "ae", 246: "oe", 252: "ue"})))))
