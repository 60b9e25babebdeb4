"""Each prompt meets each image; an image is prepared once."""

from pathlib import Path
from typing import Any

import pytest

from custom.engines.requests import RequestDataset, list_requests
from custom.prompts.grammar import PromptError

IMAGES = ["/data/a.nii.gz", "/data/b.nii"]


def test_one_prompt_and_several() -> None:
    one = list_requests(IMAGES, prompt=("liver", "spleen"))
    assert [(q["image"], q["output_name"]) for q in one] == [(IMAGES[0], "a"), (IMAGES[1], "b")]
    many = list_requests(IMAGES, prompts=["Liver!", ["both kidneys", "aorta"], "Prostata / Blase " * 9])
    longest = "a_3_prostata_blase_prostata_blase_prostata_b"
    assert [q["output_name"] for q in many[:3]] == ["a_1_liver", "a_2_both_kidneys_aorta", longest]
    assert [q["image"] for q in many] == [IMAGES[0]] * 3 + [IMAGES[1]] * 3
    assert many[1]["prompt"] == "both kidneys, aorta"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": "liver", "prompts": ["spleen"]}, "not both"),
        ({"prompts": "liver"}, "must be a list of texts"),
        ({"prompts": []}, "must be a list of texts"),
        ({"prompts": [{"a": 1}]}, "must be a text"),
    ],
)
def test_what_is_no_question_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        list_requests(IMAGES, **asked)


def test_an_image_is_prepared_once_unless_it_changes(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a.nii", "b.nii")]
    for image in images:
        image.write_text("voxels")
    prepared: list[str] = []

    def prepare(item: dict[str, Any]) -> dict[str, Any]:
        prepared.append(Path(item["image"]).name)
        return {"image": len(prepared)}

    requests = list_requests(list(map(str, images)), prompts=["liver", "spleen"])
    dataset = RequestDataset(requests, prompt_preprocessing=lambda item: item | {"asked": True}, preprocessing=prepare)
    items = [dataset[index] for index in range(4)]
    assert [item["image"] for item in items] == [1, 1, 2, 2] and all(item["asked"] for item in items)
    assert [item["prompt"] for item in items] == ["liver", "spleen"] * 2
    images[1].write_text("other voxels")
    assert dataset[3]["image"] == 3
