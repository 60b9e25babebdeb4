"""A request for each prompt and image; an image is prepared once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from custom.engines.requests import RequestDataset, check_requests, list_requests, process_requests
from custom.prompts.grammar import PromptError
from custom.prompts.request import PromptRequest
from custom.text.no_text import NoText
from tests.helpers.requests import make_request, parse

IMAGES = ["/data/a.nii.gz", "/data/b.nii"]


def test_one_prompt_and_several() -> None:
    one = list_requests(IMAGES, parse=parse, prompt=("liver", "spleen"))
    assert [(request.image, request.output_name) for request in one] == [(IMAGES[0], "a"), (IMAGES[1], "b")]
    many = list_requests(IMAGES, parse=parse, prompts=["Liver!", ["both kidneys", "aorta"], "prostate, bladder, " * 9])
    longest = "a_3_prostate_bladder_prostate_bladder_prosta"
    assert [request.output_name for request in many[:3]] == ["a_1_liver", "a_2_both_kidneys_aorta", longest]
    assert [request.image for request in many] == [IMAGES[0]] * 3 + [IMAGES[1]] * 3
    assert many[1].prompt.text == "both kidneys, aorta"


def test_a_prompt_is_parsed_once_however_many_images_there_are(caplog: pytest.LogCaptureFixture) -> None:
    parsed: list[Any] = []

    def count(prompt: Any) -> PromptRequest:
        parsed.append(prompt)
        return parse(prompt)

    with caplog.at_level("INFO"):
        requests = list_requests(IMAGES, parse=count, prompt="liver")
    assert parsed == ["liver"] and requests[0].prompt is requests[1].prompt
    assert caplog.text.count("Understood: liver.") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": "liver", "prompts": ["spleen"]}, "not both"),
        ({"prompts": "liver"}, "must be a list of texts"),
        ({"prompts": []}, "must be a list of texts"),
        ({"prompts": [{"a": 1}]}, "must be a text"),
        ({"prompts": ["liver", "xyzzy"]}, "'xyzzy'"),
    ],
)
def test_what_is_no_request_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        list_requests(IMAGES, parse=parse, **given)


def test_a_run_needs_a_prompt() -> None:
    assert list_requests(IMAGES, parse=parse) == []
    with pytest.raises(PromptError, match="A prompt must be a text or a list of texts, not None"):
        check_requests([])


def test_one_process_has_all_requests() -> None:
    requests = [make_request(image) for image in IMAGES]
    assert process_requests(requests) == requests


def test_an_image_is_prepared_once_unless_it_changes(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a.nii", "b.nii")]
    for image in images:
        image.write_text("voxels")
    prepared: list[str] = []

    def prepare(item: dict[str, Any]) -> dict[str, Any]:
        prepared.append(Path(item["image"]).name)
        return {"image": len(prepared)}

    requests = list_requests(list(map(str, images)), parse=parse, prompts=["liver", "spleen"])
    dataset = RequestDataset(requests, bank=NoText(), preprocessing=prepare)
    items = [dataset[index] for index in range(4)]
    assert [item["image"] for item in items] == [1, 1, 2, 2]
    assert [item["request"] for item in items] == requests
    assert all(item["text"].shape == (1, 0) and item["named"].shape == (1, 32) for item in items)
    assert torch.equal(items[0]["named"][0].nonzero().flatten(), torch.tensor([5]))
    images[1].write_text("other voxels")
    assert dataset[3]["image"] == 3
