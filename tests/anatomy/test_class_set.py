"""The class set: what the CT file holds, and how a wrong file is refused."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.color import rgb2lab

from custom.anatomy.class_set import ClassSet, Code, fold
from custom.anatomy.loading import CT_CLASSES, SHIPPED, load_class_set

NAMES = """
spleen, right kidney, left kidney, gall bladder, esophagus, liver, stomach, aorta, postcava,
portal vein and splenic vein, pancreas, right adrenal gland, left adrenal gland, duodenum, hepatic vessel,
right lung, left lung, colon, intestine, rectum, bladder, prostate, left head of femur, right head of femur,
celiac trunk, kidney tumor, liver tumor, pancreas tumor, hepatic vessel tumor, lung tumor, colon tumor, kidney cyst
"""
CT = load_class_set()
SMALL: dict[str, Any] = {
    "name": "brain",
    "modality": "MR",
    "classes": [
        {"name": "left hippocampus", "synonyms": [], "side": "left", "color": [0, 0, 9], "laterality": None},
        {"name": "brainstem", "synonyms": ["brain stem"], "side": None, "color": [9, 0, 0], "laterality": None},
    ],
    "groups": {"brain": {"phrases": ["whole brain"], "classes": ["left hippocampus", "brainstem"]}},
    "sentence_templates": ["an MR of {names}"],
    "class_sentence": "an MR of a {name}",
    "default_prompt": "an MR of the brain",
    "intensity_window": [0, 1],
    "spacing": [1, 1, 1],
    "plausible_intensity": [0, 100000],
}
for row in SMALL["classes"]:
    row["snomed"] = {"value": "123037004", "meaning": "Body structure"}


def write(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
    data = json.loads(json.dumps(SMALL))
    change(data)
    path = tmp_path / "small.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_ct_has_the_32_classes_in_order() -> None:
    assert len(CT) == 32 and CT.names == tuple(" ".join(NAMES.split()).split(", "))
    assert [item.index for item in CT] == list(range(1, 33))
    assert CT[9].name == "postcava" and CT[32].name == "kidney cyst"
    assert CT.intensity_window == (-175, 250) and CT.spacing == (1.5, 1.5, 1.5)
    assert CT.sentence_templates[0] == "a computerized tomography of {names}"
    assert CT.default_prompt == "A Computed Tomography of abdomen organ"


def test_sides_are_those_of_the_names() -> None:
    sided = {name: name.split()[0] for name in CT.names if name.startswith(("left ", "right "))}
    assert {item.name: item.side for item in CT if item.side} == sided and len(sided) == 8


def test_two_classes_never_share_a_code_region_and_side() -> None:
    shared = [(a.name, b.name) for a, b in itertools.combinations(CT, 2) if coded(a) == coded(b)]
    assert shared == []


def coded(item: Any) -> tuple[Code | None, ...]:
    return item.snomed, item.laterality, item.region


def test_colors_differ_visibly() -> None:
    for a, b in itertools.combinations(CT, 2):
        assert sum(abs(x - y) for x, y in zip(a.color, b.color, strict=True)) >= 50, (a.name, b.name)


def test_the_file_is_pretty_json() -> None:
    text = CT_CLASSES.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2) + "\n"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Liver", 6),
        ("IVC", 9),
        ("Gall-Bladder", 4),
        ("  gallbladder ", 4),
        ("OESOPHAGUS", 5),
        ("œsophagus", 5),
        ("Arota", 8),
        ("Celiac Truck", 25),
        ("cœliac trunk", 25),
        ("left_adrenal_gland", 13),
        ("HCC", 27),
    ],
)
def test_index_knows_names_and_synonyms(name: str, index: int) -> None:
    assert CT.index(name) == index


@pytest.mark.parametrize(("name", "near"), [("spline", "spleen"), ("kidneys", "kidney"), ("", "spleen")])
def test_index_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=near):
        CT.index(name)


@pytest.mark.parametrize("index", [0, -1, 33])
def test_classes_are_numbered_from_one(index: int) -> None:
    with pytest.raises(IndexError, match=r"1\.\.32"):
        CT[index]


def test_groups_and_pickling() -> None:
    assert CT.groups["both kidneys"] == (2, 3) and CT.groups["all organs"] == tuple(range(1, 26))
    assert CT.groups["everything"] == tuple(range(1, 33))
    assert pickle.loads(pickle.dumps(CT)) == CT and hash(CT) == hash(load_class_set())


def test_fold() -> None:
    assert fold("  Œsóphagus's—Gall_Bladder\n") == "oesophaguss—gall bladder"


def test_class_sets_are_known_by_name_or_file(tmp_path: Path) -> None:
    assert load_class_set("ct") == CT
    assert {name: load_class_set(name).name for name in SHIPPED} == {"ct": "ct", "hippocampus": "hippocampus"}
    with pytest.raises(FileNotFoundError, match=r"--class_set_file must be .* one of ct, hippocampus, not brain"):
        load_class_set("brain")


def test_another_class_set_is_only_a_file(tmp_path: Path) -> None:
    brain = load_class_set(str(write(tmp_path)))
    assert brain.names == ("left hippocampus", "brainstem") and brain.index("Brain-Stem") == 2
    assert brain.groups == {"brain": (1, 2), "whole brain": (1, 2)} and brain[1].category.meaning.startswith("Anat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("spacing"), "must have `spacing`"),
        (lambda d: d.update(sentense=[]), "sentense"),
        (lambda d: d.update(classes=[]), "at least one class"),
        (lambda d: d.update(classes={"a": 1}), "at least one class"),
        (lambda d: d["classes"].append(d["classes"][0]), "one thing"),
        (lambda d: d["classes"][0].update(name=" - "), "`name` must be a text"),
        (lambda d: d["classes"][0].update(synonyms=["Brain stem"]), "one thing"),
        (lambda d: d["classes"][0].update(synonyms="hippo"), "list of texts"),
        (lambda d: d["classes"][0].update(synonym=[]), "synonym"),
        (lambda d: d["classes"][0].update(color=[0, 0, 256]), "0..255"),
        (lambda d: d["classes"][0].update(color=[0, 0.5, 25]), "0..255"),
        (lambda d: d["classes"][1].update(color=[0, 0]), "Class 2: `color` must be red, green and blue in 0..255"),
        (lambda d: d["classes"][0].update(side=3), "`side`"),
        (lambda d: d["classes"][0].update(snomed={"value": "T-C3000", "meaning": "Spleen"}), "digits"),
        (lambda d: d["classes"][0].update(snomed={"value": "78961009"}), "`meaning`"),
        (lambda d: d["classes"][0].update(snomed=None), "object"),
        (lambda d: d["groups"].update(all={"classes": ["brain stem"]}), "classes of this file"),
        (lambda d: d["groups"].update(all={"classes": []}), "`classes`"),
        (lambda d: d["groups"].update(all=["brainstem"]), "`groups`, 'all': it must be an object"),
        (lambda d: d["groups"].update(all={"classes": ["brainstem"], "phrase": []}), "'all': its keys must be among"),
        (lambda d: d["groups"].update(all={"classes": ["brainstem"], "open": 1}), "`open` must be true or false"),
        (lambda d: d["groups"].update(all={"classes": ["brainstem"], "phrases": ["whole brain"]}), "one thing"),
        (lambda d: d.update(lesion_words=["tumor"]), "`lesion_words`"),
        (lambda d: d["classes"][1].update(part_of=["brain"]), "Class 2, `part_of`: it must name classes of this file"),
        (lambda d: d["groups"].update(brainstem={"classes": ["left hippocampus"]}), "one thing"),
        (lambda d: d["groups"].update(all={"classes": ["brainstem"], "phrases": ["Brain"]}), "one thing"),
        (lambda d: d["classes"][0].update(synonyms=["stem"], held_out=["Stem"]), "held-out phrase"),
        (lambda d: d.update(held_out_templates=["where?"]), "with {names} once"),
        (lambda d: d.update(groups=[]), "`groups`"),
        (lambda d: d.update(sentence_templates=["an MR"]), "with {names} once"),
        (lambda d: d.update(sentence_templates=["{names} {names}"]), "with {names} once"),
        (lambda d: d.update(sentence_templates=["{0} {names}"]), "with {names} once"),
        (lambda d: d.update(sentence_templates=[]), "with {names} once"),
        (lambda d: d.update(intensity_window=[250, -175]), "a low and a higher"),
        (lambda d: d.update(plausible_intensity=["a", "b"]), "a low and a higher"),
        (lambda d: d.update(percentiles=1), "true or false"),
        (lambda d: d.update(percentiles=True, intensity_window=[0, 200]), "must lie in 0..100"),
        (lambda d: d.update(percentiles=True, intensity_window=[5, 1]), "a low and a higher"),
        (lambda d: d.update(spacing=[1, 1, 0]), "positive"),
        (lambda d: d.update(spacing=1.5), "positive"),
        (lambda d: d.update(default_prompt=""), "`default_prompt`"),
        (lambda d: d.update(language={"filler": []}), "filler"),
        (lambda d: d.update(language={"filler_words": [1]}), "list of texts"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = write(tmp_path, change)
    with pytest.raises(ValueError) as error:
        load_class_set(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        del data["spacing"], data["modality"]

    with pytest.raises(ValueError, match=r"it must have `(modality`, `spacing|spacing`, `modality)`"):
        load_class_set(write(tmp_path, change))
    path = write(tmp_path, lambda data: data.update(spacing=[1], percentiles=1, default_prompt=""))
    with pytest.raises(ValueError) as error:
        load_class_set(path)
    assert all(f"`{key}` must be" in str(error.value) for key in ("spacing", "percentiles", "default_prompt"))


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_what_is_no_class_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="File: "):
        load_class_set(path)


def test_only_paired_classes_have_an_opposite(class_set: ClassSet) -> None:
    pairs = {item.name: class_set[class_set.opposite(item.index)].name for item in class_set}
    assert pairs["left kidney"] == "right kidney" and pairs["right head of femur"] == "left head of femur"
    assert pairs["liver"] == "liver" and pairs["kidney tumor"] == "kidney tumor"
    assert all(class_set.opposite(class_set.opposite(item.index)) == item.index for item in class_set)
    assert {name for name, other in pairs.items() if name != other} == {i.name for i in class_set if i.side}


#: Structures that lie beside each other.
NEIGHBOURS = (
    *(("liver", other) for other in ("right kidney", "left kidney", "stomach", "gall bladder", "right lung", "colon")),
    *(("liver", other) for other in ("pancreas", "duodenum", "postcava", "liver tumor")),
    *(("spleen", other) for other in ("left kidney", "stomach", "left lung", "pancreas")),
    *(("pancreas", other) for other in ("stomach", "duodenum", "pancreas tumor", "celiac trunk", "left kidney")),
    *(("aorta", other) for other in ("postcava", "celiac trunk", "esophagus", "left kidney")),
    *(("prostate", other) for other in ("bladder", "rectum")),
    *(("colon", other) for other in ("intestine", "left kidney", "right kidney", "colon tumor", "duodenum")),
    *(("right kidney", other) for other in ("duodenum", "right adrenal gland", "kidney tumor", "left kidney")),
    *(("left kidney", other) for other in ("left adrenal gland", "kidney tumor", "kidney cyst")),
    *(("right lung", other) for other in ("left lung", "lung tumor")),
)


@pytest.mark.parametrize(("one", "other"), NEIGHBOURS)
def test_neighbours_differ_in_colour(class_set: ClassSet, one: str, other: str) -> None:
    """CIE76 colour difference; some 2.3 are just noticeable, and outlines are thin and fills transparent."""
    colours = [class_set[class_set.index(name)].color for name in (one, other)]
    lab = rgb2lab(np.array([colours], np.float64) / 255)[0]
    assert np.linalg.norm(lab[0] - lab[1]) >= 30
