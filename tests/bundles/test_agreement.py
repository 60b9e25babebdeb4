"""Ours and the references' flow, of stock MONAI parts in full precision, find the same with the same weights."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference

from custom.phantom import make_phantom
from custom.reference_flow import StockFiLMSwinUNETR, preparation, restoration
from custom.weights import read_header, read_weights

HOUSE = Path(__file__).resolve().parents[2]
BUNDLE = HOUSE / "bundles" / "film_swinunetr"
DEMO = BUNDLE / "models" / "demo.safetensors"
REAL_CT = HOUSE.parent / "shared" / "data" / "ct" / "ct_abdomen_3mm.nii.gz"
PROMPT = "liver, spleen, both kidneys, aorta, bladder, lungs"


def dice(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.fixture(scope="module")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = make_phantom(9000, spacing=(3.0, 3.0, 3.0))
    path = tmp_path_factory.mktemp("phantom") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(phantom.image, phantom.affine), path)
    return path


@pytest.mark.parametrize("source", ["a phantom", "a real CT"])
def test_ours_finds_what_the_references_flow_finds(source: str, phantom_ct: Path, tmp_path: Path) -> None:
    if source == "a real CT" and not REAL_CT.is_file():
        pytest.skip(f"{REAL_CT} is not there")
    ct = phantom_ct if source == "a phantom" else REAL_CT
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    parser.update(pairs={"image": str(ct), "prompt": PROMPT, "weights": str(DEMO), "output_dir": str(tmp_path)})
    parser.update(pairs={"inferer::mode": "constant"})
    parser.get_parsed_content("load")
    item = parser.get_parsed_content("dataset")[0]
    network, inferer = parser.get_parsed_content("network").eval(), parser.get_parsed_content("inferer")
    asked = item["text"][None], item["named"][None]
    batch = list_data_collate([{"image": item["image"]}])["image"]
    with torch.inference_mode():
        ours = inferer(batch, network, *asked)
        slabs = [slab.fresh.clone() for slab in inferer.answers(batch, network, *asked)]
        axis = 2 if batch.shape[3] > batch.shape[4] else 3
        logits = torch.cat(slabs, dim=axis)

        weights, header = read_weights(DEMO)[0], read_header(DEMO)
        stock = StockFiLMSwinUNETR(
            1, 32, header["feature_size"], header["text_dim"], header["variant"], window_size=header["window_size"]
        )
        stock.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        stock.eval()
        window = parser.get_parsed_content("class_set").intensity_window
        prepare = preparation(spacing=header["spacing"], window=window)
        prepared = prepare({"image": str(ct)})
        vector = item["text"][:1]
        image = list_data_collate([prepared])["image"]
        expected = sliding_window_inference(
            image, header["roi_size"], 1, lambda part: stock(part, vector), overlap=0.25, mode="constant"
        )
        [decollated] = decollate_batch({"image": image, "pred": expected})
        masks = restoration(prepare, nearest=False)(decollated)["pred"]
    assert isinstance(masks, MetaTensor)
    compared = 0
    for i, label in enumerate(ours.labels):
        truth = (expected[0, label - 1] >= 0).numpy()
        size = int(truth.sum())
        if size < 500:
            continue
        compared += 1
        at_least = 0.995 if size > 5000 else 0.98
        assert dice((logits[i] >= 0).numpy(), truth) >= at_least, label
        assert dice(ours.mask(label), np.asarray(masks[label - 1]) > 0) >= at_least, label
    assert compared >= 2
