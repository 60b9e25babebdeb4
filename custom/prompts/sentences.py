"""The sentence that names classes."""

from __future__ import annotations

from collections.abc import Sequence

from custom.anatomy.class_set import ClassSet


def write_sentence(class_set: ClassSet, indices: Sequence[int]) -> str:
    """Return the canonical sentence that names these classes (1-based) in this order."""
    check_indices(class_set, indices)
    return class_set.sentence_templates[0].replace("{names}", ", ".join(class_set[index].name for index in indices))


def check_indices(class_set: ClassSet, indices: Sequence[int]) -> None:
    """Refuse indices that are no classes or occur twice."""
    if len(indices) == 0 or len({i for i in indices if 1 <= i <= len(class_set)}) < len(indices):
        rule = f"A sentence must name at least one class, each once and in 1..{len(class_set)}"
        raise ValueError(f"{rule}, not {list(indices)!r:.80}: correct the indices.")
