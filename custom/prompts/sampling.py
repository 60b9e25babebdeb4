"""Random sentences for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from custom.anatomy.class_set import ClassSet
from custom.prompts.grammar import PromptError, Structure
from custom.prompts.resolve import resolve_prompt
from custom.prompts.sentences import check_indices


def sample_sentence(class_set: ClassSet, indices: Sequence[int], rng: np.random.RandomState) -> str:
    """Return a random sentence that `resolve_prompt` understands as exactly these classes, in any order."""
    check_indices(class_set, indices)
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
    canonical = template.replace("{names}", ", ".join(class_set[index].name for index in indices))
    return _list_phrases(class_set, indices, phrases, template, rng) or canonical


def held_out_sentence(class_set: ClassSet, indices: Sequence[int], rng: np.random.RandomState) -> str:
    """Return a random sentence of held-out phrases and a held-out template, meaning these classes (1-based)."""
    check_indices(class_set, indices)
    phrases = [_choose(class_set[index].held_out, class_set, rng) for index in indices]
    rng.shuffle(phrases)
    template = class_set.held_out_templates[rng.randint(len(class_set.held_out_templates))]
    if sentence := _list_phrases(class_set, indices, phrases, template, rng):
        return sentence
    raise ValueError(f"Held-out phrases must be understood in a list, not {phrases} in {template!r}: hold out others.")


def _list_phrases(
    class_set: ClassSet, indices: Sequence[int], phrases: Sequence[str], template: str, rng: np.random.RandomState
) -> str | None:
    """Return a template with these phrases, at random with "and" before the last; None if it means anything else."""
    lists = [", ".join(phrases)]
    if len(phrases) > 1 and rng.randint(2):
        lists.insert(0, f"{', '.join(phrases[:-1])} and {phrases[-1]}")  # may have two readings: "liver and lung tumor"
    for names in lists:
        sentence = template.replace("{names}", names)
        with suppress(PromptError):
            if set(resolve_prompt(sentence, class_set).structures) == set(map(Structure, indices)):
                return sentence
    return None


def _choose(phrases: Sequence[str], class_set: ClassSet, rng: np.random.RandomState) -> str:
    nouns = [phrase for phrase in phrases if phrase not in class_set.language.adjectives] or phrases
    return nouns[rng.randint(len(nouns))]
