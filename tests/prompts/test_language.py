"""Properties of every word: names are understood, titles mean themselves, a typing error never changes the meaning."""

import random
import string

import numpy as np
import pytest

from custom.anatomy.loading import load_class_set
from custom.prompts.grammar import PromptError, Structure, UnknownOrganError
from custom.prompts.lexicon import lexicon_of
from custom.prompts.resolve import is_one_edit, resolve_prompt
from custom.prompts.sampling import sample_sentence

CT = load_class_set()
HIPPOCAMPUS = load_class_set("hippocampus")
LEXICON = lexicon_of(CT)


def edits(word: str) -> list[str]:
    """All single-edit misspellings of a word."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    found = {a + letter + b for a, b in cuts for letter in string.ascii_lowercase}
    found |= {a + b[1:] for a, b in cuts}
    found |= {a + letter + b[1:] for a, b in cuts if b for letter in string.ascii_lowercase}
    found |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    return sorted(found - {word})


def test_every_alias_is_understood_and_never_sampled() -> None:
    for alias, members in CT.aliases.items():
        assert resolve_prompt(f"bitte {alias.upper()}", CT).indices == members, alias
    sampled = {word.casefold() for item in CT for word in (item.name, *item.synonyms)} | set(CT.groups)
    assert sampled.isdisjoint(alias for item in CT for alias in item.aliases)
    assert sampled.isdisjoint(CT.group_aliases)


def test_sampled_sentences_request_exactly_their_classes() -> None:
    rng = np.random.RandomState(1)
    for _ in range(300):
        indices = [int(i) + 1 for i in rng.permutation(len(CT))[: rng.randint(1, 12)]]
        resolution = resolve_prompt(sample_sentence(CT, indices, rng), CT)
        assert set(resolution.structures) == {Structure(index) for index in indices}, resolution.text
        assert not resolution.corrections


def test_titles_are_understood_as_themselves() -> None:
    parts = [(part, whole) for part, wholes in CT.wholes.items() for whole in wholes]
    structures = [Structure(item.index) for item in CT]
    structures += [Structure(whole, without=(part,)) for part, whole in parts]
    structures += [Structure(part, within=whole) for part, whole in parts if len(CT.wholes[part]) > 1]
    structures += [Structure(3, without=(26, 32))]
    for structure in structures:
        assert resolve_prompt(structure.title(CT), CT).structures == (structure,)
    assert resolve_prompt("; ".join(s.title(CT) for s in structures), CT).structures == tuple(structures)


@pytest.mark.parametrize(
    ("prompt", "indices"),
    [
        ("anterior hippocampus", (1,)),
        ("please show me the Hippocampus", (1, 2)),
        ("MRI of the posterior part of the hippocampus", (2,)),
        ("anterior and posterior", (1, 2)),
        ("hippocampus without the head of the hippocampus", (2,)),
        ("posteriorr hippocampus", (2,)),
    ],
)
def test_another_class_set_has_words_of_its_own(prompt: str, indices: tuple[int, ...]) -> None:
    assert resolve_prompt(prompt, HIPPOCAMPUS).indices == indices


@pytest.mark.parametrize("prompt", ["liver", "left hippocampus", "inferior hippocampus", "CT"])
def test_another_class_set_refuses_what_it_does_not_know(prompt: str) -> None:
    with pytest.raises(PromptError):
        resolve_prompt(prompt, HIPPOCAMPUS)


def test_sentences_of_another_class_set_are_understood() -> None:
    rng = np.random.RandomState(1)
    assert resolve_prompt(HIPPOCAMPUS.default_prompt, HIPPOCAMPUS).indices == (1, 2)
    for indices in ([1], [2], [1, 2]) * 40:
        resolution = resolve_prompt(sample_sentence(HIPPOCAMPUS, indices, rng), HIPPOCAMPUS)
        assert set(resolution.indices) == set(indices) and not resolution.corrections, resolution.text


def test_one_edit() -> None:
    for word in ("kidney", "aorta"):
        assert all(is_one_edit(typed, word) for typed in edits(word))
    for typed, word in (("kidney", "kidney"), ("kidnye", "kindey"), ("kdny", "kidney"), ("abdc", "acbd"), ("", "ab")):
        assert not is_one_edit(typed, word)


def test_a_typing_error_never_changes_the_meaning() -> None:
    rng = random.Random(0)
    phrases: dict[str, list[str]] = {}
    for words in sorted(LEXICON.nouns, key=len):
        for word in words:
            if len(word) >= 6:
                phrases.setdefault(word, []).append(" ".join(words))
    understood = 0
    for word, (phrase, *_) in phrases.items():
        meant = resolve_prompt(phrase, CT).structures
        for typed in rng.sample(edits(word), 5):
            try:
                resolution = resolve_prompt(phrase.replace(word, typed), CT)
            except PromptError:
                continue
            assert resolution.structures == meant, (typed, word)
            known = typed in LEXICON.vocabulary
            assert known or resolution.corrections == ((typed, resolution.corrections[0][1]),)
            understood += 1
    assert understood > 4.5 * len(phrases)


def test_typing_errors_around_names_keep_what_is_left_out() -> None:
    rng = random.Random(0)
    for word in ("without", "excluding", "except", "tumours"):
        prompt = f"liver {word} liver tumor" if word != "tumours" else "liver without tumours"
        for typed in rng.sample(edits(word), 25):
            try:
                structures = resolve_prompt(prompt.replace(word, typed), CT).structures
            except PromptError:
                continue
            assert structures == (Structure(6, without=(27,)),), typed


@pytest.mark.parametrize("word", CT.language.never_corrected)
def test_real_words_are_never_corrected(word: str) -> None:
    assert any(is_one_edit(word, ours) for ours in LEXICON.correctable), "it is near no known word"
    with pytest.raises(UnknownOrganError, match=word):
        resolve_prompt(word, CT)


def test_corrections_are_reported() -> None:
    resolution = resolve_prompt("Pancraes and the LEFT kideny, not the right kideny", CT)
    assert resolution.corrections == (("Pancraes", "pancreas"), ("kideny", "kidney"))
    assert resolution.matches == (("Pancraes", (11,)), ("LEFT kideny", (3,)))
    assert resolution.explain(CT) == [
        "Understood: pancreas, left kidney.",
        "Read 'Pancraes' as 'pancreas'.",
        "Read 'kideny' as 'kidney'.",
    ]
    with pytest.raises(PromptError, match='"pancraes" beside "left kidny tumor"'):
        resolve_prompt("pancraes and left kidny tumor", CT)


def test_exclusions_are_reported() -> None:
    assert resolve_prompt("liver and both kidneys without the left one", CT).explain(CT) == [
        "Understood: liver, right kidney.",
        "Excluded: left kidney.",
    ]
    assert resolve_prompt("all organs but the lungs", CT, {1, 6, 16, 17}).explain(CT) == [
        "Understood: spleen, liver.",
        "all organs: these weights know 4 of 25; without "
        + ", ".join(CT[index].name for index in sorted(set(range(1, 26)) - {1, 6, 16, 17}))
        + ".",
        "Excluded: right lung, left lung.",
    ]
    assert resolve_prompt("liver without tumour", CT).explain(CT) == ["Understood: liver without liver tumor."]


def test_groups_that_say_all_mean_what_is_available() -> None:
    resolution = resolve_prompt("liver tumor, all organs except the liver", CT, {1, 6, 11, 27})
    assert resolution.titles(CT) == ("liver tumor", "spleen", "pancreas")
    assert len(resolution.left_out) == 22 and 6 not in resolution.left_out
    assert resolve_prompt("kidneys", CT, {1}).indices == (2, 3)  # named: for the caller to refuse
    assert resolve_prompt("all organs and the aorta", CT, {1}).indices == (1, 8)
    for prompt in ("all tumours", "all organs except the spleen", "alle Organe außer der Milz"):
        with pytest.raises(PromptError, match=r"know nothing of what .* know spleen"):
            resolve_prompt(prompt, CT, {1})
