"""Prompts to classes and back: what a prompt means, and which are refused rather than guessed."""

import json
from pathlib import Path

import numpy as np
import pytest

from custom.anatomy.class_set import ClassSet, fold
from custom.anatomy.loading import CT_CLASSES, load_class_set
from custom.prompts.grammar import PromptError, Structure, UnknownOrganError
from custom.prompts.resolve import normalise_prompt, resolve_prompt
from custom.prompts.sampling import held_out_sentence, sample_sentence
from custom.prompts.sentences import write_sentence

CT = load_class_set()
KIDNEYS = "right kidney, left kidney"
LUNGS = "right lung, left lung"
ADRENALS = "right adrenal gland, left adrenal gland"
FEMORA = "left head of femur, right head of femur"
VEINS = "portal vein and splenic vein"

# prompt -> canonical names (more in prompt_table.json), ";" between them because one of the names holds "and"
UNDERSTOOD = [
    ("Liver", "liver"),
    ("  LIVER  ", "liver"),
    ("livers", "liver"),
    ("hepatic", "liver"),
    ("hépatic", "liver"),
    ("the liver.", "liver"),
    ("liver, spleen", "liver, spleen"),
    ("spleen, liver", "spleen, liver"),
    ("liver,spleen", "liver, spleen"),
    ("liver\uff0cspleen", "liver, spleen"),
    ("liver;spleen", "liver, spleen"),
    ("liver\u2026 spleen \uff06 stomach", "liver, spleen, stomach"),
    ("liver & spleen", "liver, spleen"),
    ("liver + spleen", "liver, spleen"),
    ("liver/spleen", "liver, spleen"),
    ("liver and spleen", "liver, spleen"),
    ("liver, and spleen", "liver, spleen"),
    ("liver\nspleen\n\nstomach", "liver, spleen, stomach"),
    ("liver\r\nspleen", "liver, spleen"),
    ("liver,, spleen,", "liver, spleen"),
    ("liver spleen stomach", "liver, spleen, stomach"),
    ("liver, liver, hepatic", "liver"),
    ("[liver, spleen]", "liver, spleen"),
    ('"liver" and "spleen"', "liver, spleen"),
    ("liver as well as the spleen", "liver, spleen"),
    ("liver together with the spleen", "liver, spleen"),
    ("both liver and spleen", "liver, spleen"),
    ("gall bladder", "gall bladder"),
    ("gall-bladder", "gall bladder"),
    ("gall_bladder", "gall bladder"),
    ("gall   bladder", "gall bladder"),
    ("bladder", "bladder"),
    ("gall bladder and bladder", "gall bladder, bladder"),
    ("œsophagus", "esophagus"),
    ("Œsophagus and Stomach", "esophagus, stomach"),
    ("aorta", "aorta"),
    ("A computerized tomography of a Arota", "aorta"),
    ("A computerized tomography of a Celiac Truck", "celiac trunk"),
    ("coeliac axis", "celiac trunk"),
    ("cœliac trunk", "celiac trunk"),
    ("the ivc and the aorta", "postcava, aorta"),
    ("portal vein and splenic vein", VEINS),
    ("Portal Vein and Splenic Vein", VEINS),
    ("portal vein & splenic vein", VEINS),
    ("portal vein", VEINS),
    ("splenic veins", VEINS),
    ("portal and splenic veins", VEINS),
    ("spleen and portal vein and splenic vein", f"spleen; {VEINS}"),
    ("splenic vein, spleen", f"{VEINS}; spleen"),
    ("vessels of the liver", "hepatic vessel"),
    ("small intestine and colon", "intestine, colon"),
    ("large intestine", "colon, rectum"),
    ("right kidney", "right kidney"),
    ("kidney_left", "left kidney"),
    ("Right-Kidney", "right kidney"),
    ("left kidney and right kidney", "left kidney, right kidney"),
    ("left and right kidney", "left kidney, right kidney"),
    ("right and left kidneys", "right kidney, left kidney"),
    ("the left and the right kidney", "left kidney, right kidney"),
    ("left, right kidney", "left kidney, right kidney"),
    ("left/right kidney", "left kidney, right kidney"),
    ("left & right lungs", "left lung, right lung"),
    ("left and right adrenal glands", "left adrenal gland, right adrenal gland"),
    ("right and left femoral heads", "right head of femur, left head of femur"),
    ("left and right head of femur", FEMORA),
    ("left femoral head", "left head of femur"),
    ("head of the left femur", "left head of femur"),
    ("left head of femur and right head of femur", FEMORA),
    ("kidneys, liver", f"{KIDNEYS}, liver"),
    ("liver, kidneys", f"liver, {KIDNEYS}"),
    ("left kidney, kidneys", "left kidney, right kidney"),
    ("kidney", KIDNEYS),
    ("both kidneys", KIDNEYS),
    ("renal", KIDNEYS),
    ("right kidney and both lungs", f"right kidney, {LUNGS}"),
    ("lungs and adrenals", f"{LUNGS}, {ADRENALS}"),
    ("right adrenal", "right adrenal gland"),
    ("left suprarenal gland", "left adrenal gland"),
    ("femoral heads", FEMORA),
    ("kidney tumor", "kidney tumor"),
    ("renal cell carcinoma", "kidney tumor"),
    ("HCC", "liver tumor"),
    ("liver tumours", "liver tumor"),
    ("hepatic metastases", "liver tumor"),
    ("tumour of the liver", "liver tumor"),
    ("liver and liver tumor", "liver, liver tumor"),
    ("liver, pancreas tumor", "liver, pancreas tumor"),
    ("spleen and liver tumor", "spleen, liver tumor"),
    ("kidneys and kidney tumors", f"{KIDNEYS}, kidney tumor"),
    ("kidney tumors and kidney cysts", "kidney tumor, kidney cyst"),
    ("hepatic vessel tumour", "hepatic vessel tumor"),
    ("NSCLC", "lung tumor"),
    ("colon cancer", "colon tumor"),
    ("renal lesions", "kidney tumor, kidney cyst"),
    ("all tumours", ", ".join(CT.names[25:31])),
    ("a computerized tomography of liver, spleen", "liver, spleen"),
    ("a CT of the liver", "liver"),
    ("A computerized tomography of a liver", "liver"),
    ("please outline the liver and the left kidney in this scan", "liver, left kidney"),
    ("Could you segment the pancreas for me, please?", "pancreas"),
    ("show me my liver", "liver"),
    ("Where is the spleen?", "spleen"),
    ("CT scan with stomach annotated", "stomach"),
    ("segmentation mask of the whole liver", "liver"),
    ("liver in the abdomen", "liver"),
    ("segment: liver, spleen", "liver, spleen"),
    ("contrast-enhanced CT of the aorta", "aorta"),
    ("non-contrast CT of the aorta", "aorta"),
    ("CT of the abdomen and pelvis, rectum", "rectum"),
    ("Does the patient have a liver tumour?", "liver tumor"),
]

# prompt -> words that the message of the refusal contains
UNKNOWN = [
    ("spline", ["spline", "spleen"]),
    ("heart", ["heart"]),
    ("liver, heart", ["heart"]),
    ("left liver", ["left"]),
    ("left and right liver", ["left"]),
    ("hepatic artery", ["artery"]),
    ("splenic flexure", ["flexure"]),
    ("pulmonary artery", ["artery"]),
    ("portal", ["portal vein"]),
    ("pancreas head", ["head"]),
    ("liver, tumor", ["tumor", "liver tumor"]),
    ("lung tumor left", ["left"]),
    ("spleen tumor", ["tumor"]),
    ("esophagus tumors", ["tumors"]),
    ("right prostate", ["right"]),
    ("left lung and right", ["right"]),
    ("2 kidneys", ["2"]),
    ("fatty liver", ["fatty"]),
    ("femur", ["femur", "femur head"]),
    ("body of the pancreas", ["body"]),
    ("renal pelvis", ["pelvis"]),
    ("lung and renal hilum", ["hilum"]),
    ("bowel", ["bowel"]),
    ("liver -tumor", ["-"]),
    ("liver 🫀", ["🫀"]),
    ("肝臓", ["肝臓"]),
    ("liver; rm -rf", ["rm"]),
    ("${liver}", ["$"]),
    ("@liver", ["@"]),
]
NOT_YET = "name the structures you want instead"
REFUSED = [
    ("no liver", ["no liver", "before those to leave out"]),
    ("not the spleen", ["not the spleen", "before"]),
    ("don't segment the liver", ["don't", "before"]),
    ("kidneys, only the left kidney", ["only", NOT_YET]),
    ("kidneys but only the left one", ["only", NOT_YET]),
    ("not only the liver", ["only", NOT_YET]),
    ("organs but not just the liver", ["just", NOT_YET]),
    ("only left part of the liver", ["part", NOT_YET]),
    ("non-liver", ["non", NOT_YET]),
    ("liver or spleen", ["or", NOT_YET]),
    ("a segment of the liver", ["segment of", NOT_YET]),
    ("liver segment 4", ["liver segment", NOT_YET]),
    ("upper lobe of the right lung", ["upper", NOT_YET]),
    ("liver near the stomach", ["near", NOT_YET]),
    ("aorta in the liver", ["aorta in the liver", NOT_YET]),
    ("portal vein of the liver", ["portal vein", "of", "liver"]),
    ("liver tumor in the left kidney", ["liver tumor", "left kidney"]),
    ("liver and pancreas tumor", ["liver", "pancreas tumor", "comma"]),
    ("hepatic and pancreatic tumors", ["hepatic", "pancreatic tumors", "comma"]),
    ("liver, lung and colon tumors", ["lung", "colon tumors"]),
    ("lung and liver metastases", ["lung", "liver metastases"]),
    ("gastric and colon tumor", ["gastric", "colon tumor"]),
    ("spleen and liver tumors", ["spleen", "liver tumors"]),
    ("hepatic vessel and liver tumor", ["hepatic vessel", "liver tumor"]),
    ("hepatic and splenic vein", ["hepatic", "splenic vein"]),
    ("left kidney and lung", ["left kidney", "lung"]),
    ("right kidney and adrenal", ["right kidney", "adrenal"]),
    ("tumor of the kidney and liver", ["tumor of the kidney", "liver"]),
    ("vessels of the liver and spleen", ["vessels of the liver", "spleen"]),
    ("kidney left lung", ["kidney left", "lung"]),
    ("liver lung tumor", ["liver", "lung tumor"]),
    ("hepatic stomach", ["hepatic", "stomach"]),
    ("", ["example"]),
    ("   \n ", ["example"]),
    (", ;", ["example"]),
    ("please segment", ["example"]),
    ("A CT of the abdomen", ["example"]),
    ("liver\x00", ["control"]),
    ("liver\x1b[31m", ["control"]),
    ("liver\u202espleen", ["control"]),
    ("liver\u200b", ["control"]),
    ("\ud800liver", ["control"]),
    ("liver, " * 300, ["2000"]),
]


@pytest.mark.parametrize(("prompt", "names"), UNDERSTOOD)
def test_understood(prompt: str, names: str) -> None:
    expected = [name for part in names.split("; ") for name in ([part] if part == VEINS else part.split(", "))]
    assert [CT[index].name for index in resolve_prompt(prompt, CT).indices] == expected


@pytest.mark.parametrize(("prompt", "words"), UNKNOWN)
def test_unknown_words_are_quoted_with_the_nearest_names(prompt: str, words: list[str]) -> None:
    with pytest.raises(UnknownOrganError) as error:
        resolve_prompt(prompt, CT)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(("prompt", "words"), REFUSED)
def test_refused_with_words(prompt: str, words: list[str]) -> None:
    with pytest.raises(PromptError) as error:
        resolve_prompt(prompt, CT)
    assert not isinstance(error.value, UnknownOrganError)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_tables_are_long_enough() -> None:
    assert len(UNDERSTOOD) >= 80 and len({prompt for prompt, _ in UNDERSTOOD + UNKNOWN + REFUSED}) > 150


def test_every_name_synonym_and_group_is_understood() -> None:
    for item in CT:
        for name in (item.name, *item.synonyms):
            assert resolve_prompt(f"please segment the {name.upper()}", CT).indices == (item.index,), name
    for phrase, members in CT.groups.items():
        assert resolve_prompt(phrase, CT).indices == members, phrase
    assert resolve_prompt(CT.default_prompt, CT).indices == CT.groups["abdominal organs"]


def test_matches_are_the_phrases_as_typed() -> None:
    resolution = resolve_prompt("A CT of the Gall-Bladder, left and Right kidney & kidneys", CT)
    assert resolution.matches == (("Gall-Bladder", (4,)), ("left and Right kidney", (3, 2)), ("kidneys", (2, 3)))
    assert resolution.indices == (4, 3, 2) and resolution.text.startswith("A CT")


@pytest.mark.parametrize("template", CT.sentence_templates)
def test_what_is_written_is_understood(template: str) -> None:
    rng = np.random.RandomState(len(template))
    for _ in range(30):
        indices = tuple(int(i) + 1 for i in rng.permutation(len(CT))[: rng.randint(1, len(CT) + 1)])
        sentence = template.replace("{names}", ", ".join(CT[index].name for index in indices))
        assert resolve_prompt(sentence, CT).indices == indices


def test_the_canonical_sentence() -> None:
    assert write_sentence(CT, (6, 1)) == "a computerized tomography of liver, spleen"


@pytest.mark.parametrize(
    ("indices", "message"), [((), "at least one"), ((1, 1), "once"), ((0,), "1..32"), ((33,), "1..32")]
)
def test_what_cannot_be_written(indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_sentence(CT, indices)


def test_sampled_sentences_are_understood_and_varied() -> None:
    rng = np.random.RandomState(0)
    sentences = []
    for _ in range(300):
        indices = [int(i) + 1 for i in rng.permutation(len(CT))[: rng.randint(1, 9)]]
        if rng.rand() < 0.3:
            indices = list(dict.fromkeys([2, 3, *indices]))
        sentences.append(sample_sentence(CT, indices, rng))
        assert sorted(resolve_prompt(sentences[-1], CT).indices) == sorted(indices), sentences[-1]
    assert len(set(sentences)) > 250
    assert any("both kidneys" in s for s in sentences) and any(" and " in s for s in sentences)
    assert any("IVC" in s or "inferior vena cava" in s for s in sentences)


def test_sampling_repeats_with_its_seed() -> None:
    first, again = (sample_sentence(CT, (2, 3, 6, 27), np.random.RandomState(5)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("liver, spleen", "liver, spleen"),
        (("liver", "spleen"), "liver, spleen"),
        (["liver"], "liver"),
        (["left kidney", 4], "left kidney, 4"),
        ((), ""),
        (3, "3"),
        (1.5, "1.5"),
    ],
)
def test_normalise_prompt(value: object, text: str) -> None:
    assert normalise_prompt(value) == text


@pytest.mark.parametrize("value", [None, {}, {"liver": 1}, {"liver"}, True, [None], [["liver"]], b"liver", object()])
def test_normalise_prompt_refuses(value: object) -> None:
    with pytest.raises(PromptError, match="A prompt must be a text"):
        normalise_prompt(value)


def brain(tmp_path: Path) -> ClassSet:
    data = json.loads(CT_CLASSES.read_text(encoding="utf-8"))
    rows = [{**row, "synonyms": [], "aliases": []} for row in data["classes"][:2]]
    rows[0] |= {"name": "upper lobe", "side": "upper"}
    rows[1] |= {"name": "lower lobe", "side": "lower"}
    data |= {"classes": rows, "groups": {"lobes": {"phrases": ["lobe"], "classes": ["upper lobe", "lower lobe"]}}}
    data["language"] |= {"refused_words": ["minus"], "adjectives": []}
    data["lesion_words"] = {}
    path = tmp_path / "set.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return load_class_set(path)


def test_sides_and_words_come_from_the_file(tmp_path: Path) -> None:
    lobes = brain(tmp_path)
    assert resolve_prompt("lower and upper lobe", lobes).indices == (2, 1)
    assert resolve_prompt(sample_sentence(lobes, (1, 2), np.random.RandomState(1)), lobes).indices in ((1, 2), (2, 1))
    with pytest.raises(UnknownOrganError, match="upper lobe"):
        resolve_prompt("liver", lobes)


@pytest.mark.parametrize(
    "prompt", ["a " * 999, "x " * 999, "x" * 1999, "left and " * 200, "kidney left " * 150, "," * 1999]
)
def test_long_prompts_are_refused_quickly(prompt: str) -> None:
    with pytest.raises(PromptError):
        resolve_prompt(prompt, CT)


def test_held_out_wordings_are_understood_and_never_drawn_in_training() -> None:
    assert not {fold(drawn) for drawn in CT.sentence_templates} & {fold(held) for held in CT.held_out_templates}
    for item in CT:
        assert item.held_out
        for word in item.held_out:
            for template in CT.held_out_templates:
                resolved = resolve_prompt(template.replace("{names}", word), CT)
                assert resolved.structures == (Structure(item.index),), word


def test_a_held_out_sentence_means_its_classes_and_names_them_in_held_out_words() -> None:
    random = np.random.RandomState(0)
    sets = [[6, 1], [2, 3, 26], [16, 17, 30], [18, 20, 31], list(range(1, 7))]
    sets += [(random.permutation(len(CT))[: random.randint(1, 7)] + 1).tolist() for _ in range(500)]
    for indices in sets:
        sentence = held_out_sentence(CT, indices, random)
        assert sorted(resolve_prompt(sentence, CT).indices) == sorted(indices), sentence
        assert all(any(word in sentence for word in CT[index].held_out) for index in indices), sentence


def test_the_reading_with_the_fewest_corrections_is_reported() -> None:
    assert resolve_prompt("tumeurm rénales", CT).corrections == (("tumeurm", "tumeurs"),)


PLAIN = {
    "kidney, left": ["left kidney"],
    "Kidney, left. Spleen": ["left kidney", "spleen"],
    "lung, left kidney": ["right lung", "left lung", "left kidney"],
    "rt. kidney": ["right kidney"],
    "kidney lt. and spleen": ["left kidney", "spleen"],
    "only the liver": ["liver"],
    "just the liver without the tumor": ["liver without liver tumor"],
    "spleen only": ["spleen"],
    "nur die Leber": ["liver"],
    "organ liver in computerized tomography": ["liver"],
    "lung nodule in the right lung": ["lung tumor in right lung"],
    "kidney tumor in the left kidney": ["kidney tumor in left kidney"],
    "foie, la rate et les deux reins": ["liver", "spleen", "right kidney", "left kidney"],
    "abdominal aorta": ["aorta"],
    "two kidneys": ["right kidney", "left kidney"],
    "enlarged spleen": ["spleen"],
    "how big is the spleen": ["spleen"],
    "cysts": ["kidney cyst"],
}


@pytest.mark.parametrize("prompt", PLAIN)
def test_what_people_type_is_understood_where_its_meaning_is_plain(class_set: ClassSet, prompt: str) -> None:
    assert list(resolve_prompt(prompt, class_set).titles(class_set)) == PLAIN[prompt]


@pytest.mark.parametrize("prompt", ["tumor", "tumors only", "metastases", "all tumours"])
def test_lesions_of_no_organ_are_all_that_the_weights_know(class_set: ClassSet, prompt: str) -> None:
    known = [class_set.index(name) for name in ("liver", "liver tumor", "kidney tumor")]
    found = resolve_prompt(prompt, class_set, known)
    assert set(found.titles(class_set)) == {"liver tumor", "kidney tumor"}
    assert class_set.index("lung tumor") in found.left_out


@pytest.mark.parametrize("typed", ["portal venous phase", "arterial phase", "without contrast", "axial"])
def test_words_on_how_the_image_was_made_are_passed_over(class_set: ClassSet, typed: str) -> None:
    found = resolve_prompt(f"liver, portal vein in {typed} CT", class_set)
    assert found.titles(class_set) == ("liver", "portal vein and splenic vein")
    assert f"Passed over '{typed}': it says how the image was made." in found.explain(class_set)


def test_far_names_are_not_proposed(class_set: ClassSet) -> None:
    with pytest.raises(UnknownOrganError, match="All names: python -m custom list-classes") as refused:
        resolve_prompt("organ that filters blood", class_set)
    assert "organs" not in str(refused.value)
