"""Resampling with little memory gives MONAI's grid and values; lines between grids, beyond the inferer's tests."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientationd, Spacingd

from custom.transforms.resampling import LinearSpacingd, find_lines, interpolate


def test_beyond_the_end_the_last_value_is_repeated_or_zero() -> None:
    values = torch.arange(1.0, 5.0)[:, None, None].expand(4, 2, 2)
    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 3] = -1.5
    ends: dict[str, Any] = {"from_shape": (4, 2, 2), "from_affine": np.eye(4)}
    lines = find_lines((7, 2, 2), affine, **ends)
    assert interpolate(values, lines)[:, 0, 0].tolist() == [1, 1, 1.5, 2.5, 3.5, 4, 4]
    lines = find_lines((7, 2, 2), affine, **ends, nothing=[(True, True), (False, False), (False, False)])
    assert interpolate(values, lines)[:, 0, 0].tolist() == [0, 0.5, 1.5, 2.5, 3.5, 2, 0]


def test_axes_that_are_not_parallel_are_refused() -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(ValueError, match="must have parallel axes"):
        find_lines((9, 9, 9), turned, from_shape=(9, 9, 9), from_affine=np.eye(4))


def test_voxels_that_depend_on_a_part_of_the_grid() -> None:
    affine = np.diag([0.5, 1, 1, 1])
    line = find_lines((20, 3, 3), affine, from_shape=(10, 3, 3), from_affine=np.eye(4))[0]
    assert line.touching(3, 4) == slice(5, 10)  # 2.5 to 4.5
    assert line.touching(40, 50) == slice(0, 0)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (6.0, 6.0, 6.0), (0.7, 2.0, 1.1)])
@pytest.mark.parametrize(("codes", "degrees"), [("RAS", 0), ("LPI", 0), ("SAR", 12), ("PIL", -40)])
def test_grid_and_values_are_those_of_monai(codes: str, degrees: float, spacing: tuple[float, float, float]) -> None:
    values = torch.randn((1, 31, 26, 70), generator=torch.Generator().manual_seed(0))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[c, -s, 0, 12], [s, c, 0, -7], [0, 0, 1, 300], [0, 0, 0, 1]])
    affine = rotation @ np.diag([2.1, 1.3, 2.5, 1]) @ nib.orientations.inv_ornt_aff(turn, (31, 26, 70))
    item = {"image": MetaTensor(values, affine=torch.from_numpy(affine), meta={"filename_or_obj": "ct.nii"})}
    item = Orientationd("image", axcodes="RAS", labels=None)(item)
    expected = Spacingd("image", pixdim=spacing, mode="bilinear")(item)["image"]
    got = LinearSpacingd("image", pixdim=spacing)(item)["image"]
    assert got.dtype == torch.float32 and got.meta["filename_or_obj"] == "ct.nii"
    torch.testing.assert_close(got.affine.double(), expected.affine.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.as_tensor(), expected.as_tensor(), atol=2e-4, rtol=1e-4)


def test_a_sheared_image_is_refused_by_name() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[1, 2] = 0.3
    image = MetaTensor(torch.zeros(1, 9, 9, 9), affine=affine, meta={"filename_or_obj": "tilted.nii"})
    with pytest.raises(ValueError, match=r"right angles; those of tilted\.nii are not"):
        LinearSpacingd("image", pixdim=(1.5, 1.5, 1.5))({"image": image})
