"""Class sets read from JSON files, and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from custom.anatomy.class_set import AnatomicalClass, ClassSet, Code, Language, fold, umlaut_spellings

CT_CLASSES = Path(__file__).parent / "class_sets" / "ct.json"

#: Class sets that come with the package, by name.
SHIPPED = {file.stem: file for file in sorted(CT_CLASSES.parent.glob("*.json"))}


def load_class_set(source: str | Path | None = None) -> ClassSet:
    """Read and check a class set: CT's, one of `SHIPPED` by its name, or the JSON file at a path.

    Raises:
        FileNotFoundError: neither a name nor a file.
        ValueError: states where the file breaks which rule, and the value found there.
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


@dataclass(frozen=True)
class _Group:
    """Phrases, and aliases that training never samples, of the same classes; `open` if they mean "all"."""

    classes: tuple[Any, ...]  # their names in the file, then their numbers
    phrases: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    open: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(fold(value))


def _are_texts(value: Any, pattern: str = ".*") -> bool:
    return isinstance(value, list) and all(_is_text(v) and re.fullmatch(pattern, v, re.DOTALL) for v in value)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and {type(v) for v in value} <= {int, float}


_TEMPLATE = r"[^{}]*\{names\}[^{}]*"

#: What the value of a field must be; a field that is not listed holds texts.
_RULES: dict[str, tuple[str, Callable[[Any], object]]] = {
    **dict.fromkeys(("name", "modality", "default_prompt", "class_sentence", "meaning"), ("a text", _is_text)),
    **dict.fromkeys(("open", "percentiles"), ("true or false", lambda v: isinstance(v, bool))),
    **dict.fromkeys(
        ("intensity_window", "plausible_intensity"),
        ("a low and a higher number", lambda v: _are_numbers(v, 2) and v[0] < v[1]),
    ),
    "spacing": ("three positive numbers (mm)", lambda v: _are_numbers(v, 3) and min(v) > 0),
    "color": ("red, green and blue in 0..255", lambda v: _are_numbers(v, 3) and all(part in range(256) for part in v)),
    "value": ("a text of digits", lambda v: _is_text(v) and v.isdigit()),
    "side": ("a text or null", lambda v: v is None or _is_text(v)),
    "side_words": ("an object of lists of texts", lambda v: isinstance(v, dict) and all(map(_are_texts, v.values()))),
    "classes": ("a list of at least one text", lambda v: v and _are_texts(v)),
    "sentence_templates": ("texts with {names} once and no other brace", lambda v: v and _are_texts(v, _TEMPLATE)),
    "held_out_templates": ("texts with {names} once and no other brace", lambda v: _are_texts(v, _TEMPLATE)),
}


def _class_set(data: Any) -> ClassSet:
    where = "Class set"
    check(isinstance(data, dict), where, "it must be an object", data)
    rows = data.get("classes")
    check(isinstance(rows, list) and rows, where, "`classes` must be a list of at least one class", rows)
    classes = tuple(_build(AnatomicalClass, row, f"Class {at}", index=at) for at, row in enumerate(rows, start=1))
    numbers = {item.name: item.index for item in classes}
    for item in classes:
        _numbers(item.part_of, numbers, f"Class {item.index}, `part_of`")
    groups = _groups("groups", data.get("groups"), numbers)
    lesions = _groups("lesion_words", data.get("lesion_words", {}), numbers)
    _check_words(classes, groups)
    opened = [word for group in groups if group.open for word in (*group.phrases, *group.aliases)]
    class_set: ClassSet = _build(
        ClassSet,
        data,
        where,
        classes=classes,
        groups={phrase: group.classes for group in groups for phrase in group.phrases},
        group_aliases={alias: group.classes for group in groups for alias in group.aliases},
        open_phrases=frozenset(spelling for word in opened for spelling in umlaut_spellings(word)),
        lesion_words={word: group.classes for group in lesions for word in group.phrases},
        language=_build(Language, data.get("language", {}), "`language`"),
    )
    window = class_set.intensity_window
    in_range = not class_set.percentiles or 0 <= window[0] < window[1] <= 100
    check(in_range, where, "an `intensity_window` in percentiles must lie in 0..100", window)
    return class_set


def _groups(key: str, records: Any, numbers: dict[str, int]) -> list[_Group]:
    """Read groups, the name of each as the first of its phrases."""
    check(isinstance(records, dict), "Class set", f"`{key}` must map a phrase to its classes", records)
    groups = []
    for phrase, record in records.items():
        where = f"`{key}`, {phrase!r}"
        group = _build(_Group, record, where)
        members = _numbers(group.classes, numbers, where)
        groups.append(replace(group, classes=members, phrases=(phrase, *group.phrases)))
    return groups


def _numbers(names: Sequence[str], numbers: dict[str, int], where: str) -> tuple[int, ...]:
    for name in names:
        check(name in numbers, where, "it must name classes of this file", name)
    return tuple(numbers[name] for name in names)


def _check_words(classes: Sequence[AnatomicalClass], groups: Sequence[_Group]) -> None:
    """Refuse a word with two meanings, and a held-out one that training samples."""
    sampled = {fold(word) for item in classes for word in (item.name, *item.synonyms)}
    both = sampled.intersection(fold(word) for item in classes for word in item.held_out)
    check(not both, "Class set", "a held-out phrase must be no name or synonym", both)
    words = [(w, (c.index,)) for c in classes for w in (c.name, *c.synonyms, *c.aliases, *c.held_out)]
    words += [(word, group.classes) for group in groups for word in (*group.phrases, *group.aliases)]
    owners: dict[str, tuple[int, ...]] = {}
    for word, meaning in words:
        owner = owners.setdefault(fold(word), meaning)
        check(owner == meaning, f"Class set, {word!r}", "a word must mean one thing", (owner, meaning))


def _build(kind: type[Any], record: Any, where: str, **made: Any) -> Any:
    """Make a dataclass of a JSON object whose keys are its fields; `made` holds the fields that are ready."""
    check(isinstance(record, dict), where, "it must be an object", record)
    required = {f.name: f.default is f.default_factory is MISSING for f in fields(kind)}
    strange = [key for key in record if key not in required]
    check(not strange, where, f"its keys must be among {', '.join(required)}", ", ".join(strange))
    missing = [f"`{key}`" for key, needed in required.items() if needed and key not in record and key not in made]
    check(not missing, where, f"it must have {', '.join(missing)}", record)
    values, problems = {}, []
    for key, value in record.items():
        if key not in made:
            try:
                values[key] = _value(key, value, where)
            except ValueError as error:  # told together with the others
                problems.append(str(error))
    if problems:
        raise ValueError(" ".join(problems))
    return kind(**values, **made)


def _value(key: str, value: Any, where: str) -> Any:
    """Check the JSON value of a field and make it immutable."""
    if key in ("laterality", "region") and value is None:
        return None
    if key in ("snomed", "category", "laterality", "region"):
        return _build(Code, value, f"{where}, `{key}`")
    rule, holds = _RULES.get(key, ("a list of texts", _are_texts))
    check(holds(value), where, f"`{key}` must be {rule}", value)
    if isinstance(value, dict):
        return {name: tuple(texts) for name, texts in value.items()}
    return tuple(value) if isinstance(value, list) else value


def check(good: Any, where: str, rule: str, received: object) -> None:
    """Raise a ValueError of the rule that ``received`` breaks unless it is ``good``."""
    if not good:
        raise ValueError(f"{where}: {rule}, not {received!r:.200}.")
