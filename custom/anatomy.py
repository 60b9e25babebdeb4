"""The structures a network can segment, read from a JSON file: another organ, language or modality is another file."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

HYPHENS = r"\-_\u2010\u2011\u2013"
CT_CLASSES = Path(__file__).with_name("anatomy.json")
SHIPPED = {"ct": CT_CLASSES} | {file.stem: file for file in Path(__file__).parent.glob("class_sets/*.json")}
_GROUP_KEYS = ("phrases", "aliases", "open")
_NUMBERS: dict[str, tuple[int, str, Callable[[Any], bool]]] = {
    "color": (3, "red, green and blue in 0..255", lambda v: all(part in range(256) for part in v)),
    "spacing": (3, "three positive numbers (mm)", lambda v: min(v) > 0),
    "intensity_window": (2, "a low and a higher number", lambda v: v[0] < v[1]),
    "plausible_intensity": (2, "a low and a higher number", lambda v: v[0] < v[1]),
}


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
    `cleanup` is a rule of `custom.postprocessing`, with the class it refers to: ("not below", "pancreas").
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
    """The words around the names in a prompt, as `custom.text.grammar` reads them.

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


def load_class_set(source: str | Path | None = None) -> ClassSet:
    """Read and check a class set: CT's, one of `SHIPPED` by its name, or the JSON file at a path.

    Raises:
        FileNotFoundError: neither a name nor a file.
        ValueError: names the rule broken, the value, the remedy and the file.
    """
    path = CT_CLASSES if source is None else SHIPPED.get(str(source), Path(source).expanduser())
    if not path.is_file():
        raise FileNotFoundError(
            f"--class_set_file must be the JSON file of a class set, or one of {', '.join(SHIPPED)}, not {source}. "
            "(Weights hold the name of theirs; if that is not shipped, give its file.)"
        )
    try:
        return _class_set(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{error} File: {path}") from error


def _class_set(data: Any) -> ClassSet:
    _check(isinstance(data, dict), "A class set must be an object", data, "write {...}")
    rows, groups = data.get("classes"), data.get("groups")
    _check(isinstance(rows, list) and rows, "`classes` must be a list of at least one class", rows, "add a class")
    _check(isinstance(groups, dict), "`groups` must map a phrase to its classes", groups, "write {...}")
    classes = tuple(_build(AnatomicalClass, row, index=i) for i, row in enumerate(rows, start=1))
    numbers = {item.name: item.index for item in classes}
    for item in classes:
        for name in item.part_of:
            _check(name in numbers, f"`part_of` of {item.name!r} must name classes of this file", name, "correct it")
    words: list[tuple[str, tuple[int, ...]]] = [
        (w, (c.index,)) for c in classes for w in (c.name, *c.synonyms, *c.aliases, *c.held_out)
    ]
    both = {fold(w) for c in classes for w in (c.name, *c.synonyms)} & {fold(w) for c in classes for w in c.held_out}
    _check(not both, "A held-out phrase must be no name or synonym", both, "hold out another")
    members, aliases, open_phrases = _groups(groups, numbers)
    lesions = _groups(data.get("lesion_words", {}), numbers)[0]
    words += list((members | aliases).items())
    owners = {fold(word): meaning for word, meaning in reversed(words)}
    for word, meaning in words:
        owner = owners[fold(word)]
        _check(owner == meaning, "A word must mean one thing", word, f"now it means {owner} and {meaning}: keep one")
    language = _build(Language, data.get("language", {}))
    window = data.get("intensity_window")
    in_range = not data.get("percentiles") or all(0 <= value <= 100 for value in _value("intensity_window", window))
    _check(in_range, "An `intensity_window` in percentiles must lie in 0..100", window, "correct it")
    made = {"classes": classes, "groups": members, "lesion_words": lesions, "language": language}
    return cast(ClassSet, _build(ClassSet, data, group_aliases=aliases, open_phrases=open_phrases, **made))


def _groups(
    groups: Any, numbers: dict[str, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], frozenset[str]]:
    """Read groups: what each phrase means, what each alias means, and which of both are open."""
    members: dict[str, tuple[int, ...]] = {}
    aliases: dict[str, tuple[int, ...]] = {}
    open_phrases: set[str] = set()
    for phrase, group in groups.items():
        right = isinstance(group, dict) and group.get("classes") and group.keys() <= {"classes", *_GROUP_KEYS}
        right = right and isinstance(group.get("open", False), bool)
        rule = f"Group {phrase!r} must have `classes`, may have `phrases`, `aliases` and `open` (true or false)"
        _check(right, rule, group, "list its class names")
        for name in _value("classes of a group", group["classes"]):
            _check(name in numbers, f"Group {phrase!r} must name classes of this file", name, "use a name in `classes`")
        meant = tuple(numbers[name] for name in group["classes"])
        spelled = _value("phrases", [phrase, *group.get("phrases", [])])
        also = _value("aliases", group.get("aliases", []))
        members |= dict.fromkeys(spelled, meant)
        aliases |= dict.fromkeys(also, meant)
        if group.get("open"):
            open_phrases |= {fold(word) for word in spelled} | {w for word in also for w in umlaut_spellings(word)}
    return members, aliases, frozenset(open_phrases)


def _build(kind: type[Any], record: Any, **made: Any) -> Any:
    """Make a dataclass of a JSON object whose keys are its fields, `made` being the fields that are ready."""
    _check(isinstance(record, dict), f"{kind.__name__} must be an object", record, "write {...}")
    needed = {f.name: f.default is f.default_factory is MISSING for f in fields(kind)}
    for key in record:
        _check(key in needed, f"A key of {kind.__name__} must be one of {list(needed)}", key, "correct or remove it")
    for key, required in needed.items():
        _check(not required or key in record or key in made, f"{kind.__name__} must have `{key}`", record, "add it")
    return kind(**{key: _value(key, value) for key, value in record.items() if key not in made}, **made)


def _value(key: str, value: Any) -> Any:
    """Check the JSON value of a field and make it immutable."""
    if key in ("snomed", "category", "laterality", "region"):
        return None if value is None and key in ("laterality", "region") else _build(Code, value)
    if key == "side_words":
        _check(isinstance(value, dict), "`side_words` must map a side to its words", value, "write {...}")
        return {side: _value("words of a side", words) for side, words in value.items()}
    if key == "percentiles":
        _check(isinstance(value, bool), "`percentiles` must be true or false", value, "correct it")
        return value
    if key in _NUMBERS:
        length, rule, right = _NUMBERS[key]
        numbers = isinstance(value, list) and len(value) == length and {type(v) for v in value} <= {int, float}
        _check(numbers and right(value), f"`{key}` must be {rule}", value, "correct it")
    elif key in ("name", "modality", "default_prompt", "class_sentence", "value", "meaning", "side"):
        text = isinstance(value, str) and fold(value) and (key != "value" or value.isdigit())
        _check(text or (key, value) == ("side", None), f"`{key}` must be a text (a code: digits)", value, "write one")
        return value
    else:
        texts = isinstance(value, list) and value and all(isinstance(text, str) and fold(text) for text in value)
        _check(texts or value == [], f"`{key}` must be a list of texts", value, "correct it")
    if key.endswith("_templates"):
        good = (value or key != "sentence_templates") and all(re.fullmatch(r"[^{}]*\{names\}[^{}]*", t) for t in value)
        _check(good, "Sentence templates must hold {names} once and no other brace", value, "correct them")
    return tuple(value)


def _check(good: Any, rule: str, received: object, remedy: str) -> None:
    if not good:
        raise ValueError(f"{rule}, not {received!r:.200}: {remedy}.")
