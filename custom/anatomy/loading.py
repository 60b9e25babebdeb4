"""Class sets read from JSON files, and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

from custom.anatomy.class_set import AnatomicalClass, ClassSet, Code, Language, fold, umlaut_spellings

CT_CLASSES = Path(__file__).parent / "class_sets" / "ct.json"


SHIPPED = {file.stem: file for file in sorted(CT_CLASSES.parent.glob("*.json"))}


_GROUP_KEYS = ("phrases", "aliases", "open")


_NUMBERS: dict[str, tuple[int, str, Callable[[Any], bool]]] = {
    "color": (3, "red, green and blue in 0..255", lambda v: all(part in range(256) for part in v)),
    "spacing": (3, "three positive numbers (mm)", lambda v: min(v) > 0),
    "intensity_window": (2, "a low and a higher number", lambda v: v[0] < v[1]),
    "plausible_intensity": (2, "a low and a higher number", lambda v: v[0] < v[1]),
}


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
