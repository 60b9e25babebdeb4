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

    - `index` is 1-based: output channel `index - 1`, voxel value `index` in a merged label map;
    - `snomed`, `laterality`, `region` and `category` are DICOM's segmented property type, its modifier, anatomic region
      and segmented property category: a liver tumor is a neoplasm, in the liver, a morphologically abnormal structure.
      `laterality` is given only where `snomed` itself has no side (or end: anterior);
    - training samples `synonyms`; `aliases` (other languages, abbreviations) and `held_out` are understood and never
      sampled. Evaluation measures with the latter what unseen words cost;
    - `part_of` names the classes whose voxels include this one's: for a kidney tumor, the kidneys;
    - `cleanup` is a rule of `custom.transforms.postprocessing` and the class it refers to: ("not below", "pancreas").
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
    - `technique_words` say how the image was made ("portal venous phase") and nothing of what is in it;
    - `only_words` ("only") mean nothing before all structures or behind them, and are refused between two;
    - `separator_words` stand between structures ("and", "as well as"), `or_words` only between excluded ones;
    - `without_words` exclude what follows ("but not"); so do `except_words` ("but"), which must then exclude something;
    - `adding_words` are the fillers and separators that begin a further request after an exclusion ("with", "show");
    - `side_words` are other words for a side, and `pronoun_words` may follow one ("not the left one");
    - `region_words` ("chest") cannot narrow a group; `refused_words` request what is not supported ("lobe", "near");
    - `adjectives` ("hepatic") alone mean their organ, but not before another structure: "hepatic stomach" is refused;
    - `shared_nouns` are plurals that may belong to two structures: "spleen and liver tumors" is refused;
    - `never_corrected` are real words that look like a misspelt word of the class set ("rectus").
    """

    filler_words: tuple[str, ...] = ()
    technique_words: tuple[str, ...] = ()
    only_words: tuple[str, ...] = ()
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

    - `groups` maps a phrase to the classes it means; training never samples `group_aliases` and `held_out_templates`;
    - `open_phrases` are those of a group that mean "all", `lesion_words` those that mean a class only beside an organ;
    - `intensity_window` is scaled to the network's input, `plausible_intensity` is the range that an image of this
      modality may hold, both in its unit (HU for CT). For a modality without a unit (MR) `percentiles` makes the window
      one of percentiles of each image's voxels;
    - `spacing` is in mm.
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
        return tuple(item.name for item in self)

    @cached_property
    def phrases(self) -> dict[str, tuple[int, ...]]:
        """Every name, synonym and group in folded spelling -> the classes it means."""
        known = {fold(name): (c.index,) for c in self for name in (c.name, *c.synonyms)}
        return known | {fold(phrase): members for phrase, members in self.groups.items()}

    @cached_property
    def aliases(self) -> dict[str, tuple[int, ...]]:
        """Every alias in each of its spellings ("d\u00fcnndarm", "duenndarm") -> the classes it means."""
        known = self.group_aliases | {a: (item.index,) for item in self for a in (*item.aliases, *item.held_out)}
        return {spelling: members for alias, members in known.items() for spelling in umlaut_spellings(alias)}

    @cached_property
    def wholes(self) -> dict[int, frozenset[int]]:
        """For each class the classes that it is part of."""
        return {item.index: frozenset(map(self.index, item.part_of)) for item in self}

    def index(self, name: str) -> int:
        """Return the 1-based index of the class with this name, synonym or alias.

        Case, accents, hyphens and underscores do not matter.
        """
        spelling = fold(name.replace("_", " "))
        if len(members := self.phrases.get(spelling) or self.aliases.get(spelling, ())) == 1:
            return members[0]
        near = ", ".join(self.nearest(name) or self.names)
        raise ValueError(f"A class of {self.name!r} must have a known name, not {name!r}. Nearest: {near}.")

    def opposite(self, index: int) -> int:
        """Return the index of the same structure on the other side, or `index` itself where it has no side."""
        side = {"left": "right", "right": "left"}.get(self[index].side or "", "")
        name = re.sub(r"\b(left|right)\b", side, self[index].name)
        return self.index(name) if side and name in self.names else index

    def nearest(self, text: str) -> list[str]:
        """Return at most six names whose phrases are spelled like `text` or contain it as words, best first."""
        key = fold(text)[:80]
        close = difflib.get_close_matches(key, self.phrases, n=6, cutoff=0.65)
        close += sorted((phrase for phrase in self.phrases if key and f" {key} " in f" {phrase} "), key=len)
        found = (p if len(self.phrases[p]) > 1 else self[self.phrases[p][0]].name for p in close)
        return list(dict.fromkeys(found))[:6]


def fold(text: str) -> str:
    """Return `text` without case, accents, apostrophes, hyphens and extra blanks: "Gall-Bladder" -> "gall bladder"."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    plain = re.sub("['\u2019]", "", plain.replace("œ", "oe").replace("æ", "ae"))
    return " ".join(re.split(f"[{HYPHENS}\\s]+", plain)).strip()


def umlaut_spellings(word: str) -> tuple[str, ...]:
    """Return a word without accents and, where it has umlauts, with ae, oe and ue for them."""
    typed = unicodedata.normalize("NFC", word).casefold()
    return tuple(dict.fromkeys((fold(typed), fold(typed.translate({228: "ae", 246: "oe", 252: "ue"})))))
