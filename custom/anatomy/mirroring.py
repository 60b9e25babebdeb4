"""The mirror image of a question: left and right change places in the words, as they do in the picture."""

import re

from custom.anatomy.class_set import ClassSet

_OPPOSITE = {"left": "right", "right": "left"}


def twin(class_set: ClassSet, index: int) -> int:
    """The class on the other side ("left kidney" for "right kidney"); a class without a side is its own twin."""
    item = class_set[index]
    if item.side is None:
        return index
    name = swap_sides(item.name)
    return class_set.index(name) if name in class_set.names else index


def twins(class_set: ClassSet) -> list[int]:
    """Of each output channel (0-based), that of the class on the other side, or its own."""
    return [twin(class_set, item.index) - 1 for item in class_set]


def swap_sides(text: str) -> str:
    """A text in which left is right, and right left."""
    return re.sub(r"\b(left|right)\b", lambda found: _OPPOSITE[found[0].lower()], text, flags=re.IGNORECASE)
