"""The mirror image of a question: left and right change places in the words, as they do in the picture."""

from custom.anatomy import ClassSet

_OPPOSITE = {"left": "right", "right": "left"}


def twin(class_set: ClassSet, index: int) -> int:
    """The class on the other side ("left kidney" for "right kidney"); a class without a side is its own twin."""
    item = class_set[index]
    if item.side is None:
        return index
    name = " ".join(_OPPOSITE.get(word, word) for word in item.name.split())
    return class_set.index(name) if name in class_set.names else index
