"""Masks on the original grid equal those of whole probability volumes, in any orientation."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, Spacingd

from custom.inferers.segmentation import OriginalGridMasks, SegmentingInferer
from custom.inferers.windows import Slab
from custom.networks.film_swin_unetr import FiLMSwinUNETR

ROI, CLASSES, TEXT_DIM = (64, 32, 32), 5, 6


@pytest.fixture(scope="module")
def network() -> FiLMSwinUNETR:
    torch.manual_seed(0)
    made = FiLMSwinUNETR(1, CLASSES, 12, TEXT_DIM, window_size=4)
    made.get_parameter("out.conv.conv.bias").data.zero_()
    made.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randn((1, 2, TEXT_DIM), generator=torch.Generator().manual_seed(3))
    return text, torch.tensor([[[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]], dtype=torch.bool)


def make_image(codes: str, *, oblique: bool = False) -> MetaTensor:
    """Smooth blobs in air, 2.1 x 1.4 x 3 mm, not filling the volume, so that it is cropped."""
    values = torch.zeros(1, 40, 52, 24)
    noise = torch.randn((1, 1, 8, 10, 6), generator=torch.Generator().manual_seed(1))
    values[:, 3:37, 6:50, 2:21] = torch.nn.functional.interpolate(noise, size=(34, 44, 19), mode="trilinear")[0].abs()
    affine = np.diag([2.1, 1.4, 3.0, 1.0])
    affine[:3, 3] = -30, 20, 5
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = nib.orientations.apply_orientation(values[0].numpy(), turn)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, values.shape[1:])
    if oblique:
        angle = np.deg2rad(17)
        rotation = np.eye(4)
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = rotation @ affine
    meta = {"spatial_shape": np.array(turned.shape), "original_affine": affine.copy()}
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(turned))[None], affine=torch.from_numpy(affine), meta=meta)


def prepare() -> Compose:
    return Compose(
        [
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
            CropForegroundd("image", source_key="image"),
        ]
    )


def expected(item: dict[str, Any], steps: Compose, network: FiLMSwinUNETR, prompts: Any) -> np.ndarray[Any, Any]:
    """Probabilities (3, H, W, D) on the original grid, by MONAI over the whole volume."""
    text, _ = prompts
    image = item["image"]

    def predict(windows: torch.Tensor) -> torch.Tensor:
        first, second = (network(windows, text[0, i : i + 1]) for i in (0, 1))
        return torch.stack([second[:, 0], first[:, 1], first[:, 4]], 1)

    logits = sliding_window_inference(image.as_tensor()[None], ROI, 1, predict, overlap=0.25, mode="gaussian")[0]
    prediction = MetaTensor(logits.sigmoid(), meta=image.meta, applied_operations=image.applied_operations)
    invert = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False, to_tensor=True)
    restored: np.ndarray[Any, Any] = invert({"image": image, "pred": prediction})["pred"].numpy()
    return restored


@pytest.mark.parametrize(
    ("codes", "oblique"), [("RAS", False), ("LPS", False), ("SAR", False), ("PIL", True), ("ASL", True)]
)
def test_masks_are_those_of_interpolated_probabilities(
    codes: str, oblique: bool, network: FiLMSwinUNETR, prompts: Any
) -> None:
    steps = prepare()
    image = make_image(codes, oblique=oblique)
    item = steps({"image": image})
    assert item["image"].shape[1:] != (56, 49, 48)  # cropped
    batch = list_data_collate([item])["image"]
    infer = SegmentingInferer(ROI, amp=False, skip_air=False, entropy=True)
    with torch.inference_mode():
        found = infer(batch, network, *prompts)
        probability = expected(item, steps, network, prompts)
    assert found.labels == (1, 2, 5) and found.shape == image.shape[1:]
    np.testing.assert_allclose(found.affine, image.meta["original_affine"])
    for label, reference in zip(found.labels, probability, strict=True):
        undecided = np.abs(reference - 0.5) < 1e-4
        assert undecided.mean() < 1e-3
        np.testing.assert_array_equal(found.mask(label)[~undecided], (reference >= 0.5)[~undecided])
        assert 0.02 < found.mask(label).mean() < 0.98
        assert found.probability[label] == pytest.approx(float(reference[reference >= 0.5].mean()), abs=1e-3)
    assert found.entropy is not None and found.entropy.max() > 200 and found.entropy.min() == 0


def test_entropy_is_rounded_not_cut() -> None:
    """In 255ths of a bit, of the least certain of the requested classes."""
    logits = torch.linspace(-6, 6, 2 * 6 * 5 * 4).reshape(2, 6, 5, 4)
    shape = np.array(logits.shape[1:])
    meta = {"spatial_shape": shape, "original_affine": np.eye(4)}
    masks = OriginalGridMasks(MetaTensor(torch.zeros(1, *shape), affine=torch.eye(4), meta=meta), [1, 2], entropy=True)
    masks.add(Slab(0, logits, masks.axis))
    p = logits.double().sigmoid().numpy()
    exact = 255 * (-(p * np.log2(p) + (1 - p) * np.log2(1 - p))).max(0)
    found = masks.segmentation().entropy
    assert found is not None
    np.testing.assert_allclose(found, exact, atol=0.5 + 1e-3)
    assert (np.abs(found - np.floor(exact)) == 1).mean() > 0.3, "cut"


def test_several_images_are_refused(network: FiLMSwinUNETR, prompts: Any) -> None:
    text, named = prompts
    with pytest.raises(ValueError, match="One image is segmented at a time, not 2"):
        SegmentingInferer(ROI)(MetaTensor(torch.zeros(2, 1, 64, 32, 32)), network, text, named)
