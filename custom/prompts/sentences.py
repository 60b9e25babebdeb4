"""The sentence that names classes."""

from __future__ import annotations

from collections.abc import Sequence

from custom.anatomy.class_set import ClassSet


def write_sentence(
    class_set: ClassSet, indices: Sequence[int], *, template: int = 0, names: Sequence[str] | None = None
) -> str:
    """Return the sentence that names these classes (1-based) in this order, by `names` (synonyms) where given."""
    check_indices(class_set, indices)
    templates = class_set.sentence_templates
    if not 0 <= template < len(templates):
        raise ValueError(f"`template` must be in 0..{len(templates) - 1}, not {template}: choose a sentence template.")
    canonical = [class_set[index].name for index in indices]
    words = canonical if names is None else list(names)
    if [class_set.index(word) for word in words] != list(indices):
        raise ValueError(f"`names` must be one synonym for each of {canonical}, not {words}: correct the names.")
    return templates[template].replace("{names}", ", ".join(words))


def check_indices(class_set: ClassSet, indices: Sequence[int]) -> None:
    """Refuse indices that are no classes or occur twice."""
    if len(indices) == 0 or len({i for i in indices if 1 <= i <= len(class_set)}) < len(indices):
        rule = f"A sentence must name at least one class, each once and in 1..{len(class_set)}"
        raise ValueError(f"{rule}, not {list(indices)!r:.80}: correct the indices.")
