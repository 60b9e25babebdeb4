"""Loading of volumes, with checks of everything that would make a mask wrong."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import NibabelReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from custom.anatomy.class_set import ClassSet
from custom.datasets.labels import UNDECLARED, Sides
from custom.imageio.checks import check_intensities, check_same_grid, open_image
from custom.imageio.readers import read_voxels
from custom.utils.compat import without_nvimgcodec_warning


class LoadVolumed(LoadImaged):
    """MONAI's LoadImaged for one volume per key, with checks.

    Headers are checked by ``open_image``; the file is read to its end, where a compressed one has its checksum; voxels
    must be finite and plausible for the modality; a label must have its image's grid and only values that the item's
    ``value_table``, if there is one, declares, other than those for left parts that ``SplitSidesd`` writes.

    Args:
        keys: paths of images and labels.
        class_set: has the modality of the images.
        label_key: the key of the label; all others are images.
        check_intensity: whether intensities must be plausible (``check_intensities``).
    """

    def __init__(
        self, keys: KeysCollection, class_set: ClassSet, *, label_key: str = "label", check_intensity: bool = True
    ) -> None:
        with without_nvimgcodec_warning():
            super().__init__(keys, image_only=True)
        self.class_set = class_set
        self.label_key = label_key
        self.check_intensity = check_intensity

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            if key != self.label_key and self.label_key in self.keys:
                check_same_grid(data[key], data[self.label_key])
        result: dict[Hashable, Any] = super().__call__(data, reader or _CheckedReader())
        for key in self.key_iterator(result):
            values = result[key].as_tensor().numpy()
            if key != self.label_key:
                self._check_voxels(values, data[key])
            elif "value_table" in result:
                _check_label(values, result["value_table"], result.get("sides", {}), data[key])
        return result

    def _check_voxels(self, values: npt.NDArray[Any], source: str) -> None:
        wrong = int(np.count_nonzero(~np.isfinite(values)))
        if wrong:
            raise ValueError(
                f"Voxels must be finite numbers; {wrong} of {source} are NaN or infinite. Replace them, by air (-1000) "
                "where nothing was measured."
            )
        if self.check_intensity:
            check_intensities(values, self.class_set, source=source)


class _CheckedReader(NibabelReader):
    """MONAI's NibabelReader for the formats of ``open_image``, which refuses truncated files."""

    def read(self, data: Any, **kwargs: Any) -> nib.Nifti1Image:
        self.filenames = ensure_tuple(data)
        return open_image(self.filenames[0])  # MONAI would replace the sform by an uncoded qform

    def _get_array_data(self, img: nib.Nifti1Image, filename: str | Path) -> npt.NDArray[Any]:
        return read_voxels(img, filename)


def _check_label(values: npt.NDArray[Any], table: torch.Tensor, sides: Sides, source: str) -> None:
    declared = (table[:, 0] != UNDECLARED).numpy()
    declared[[left for pairs in sides.values() for _, left in pairs.values()]] = False
    bytes_only = (values >= 0) & (values < len(declared)) & (values == np.floor(values))
    found = np.unique(values[~bytes_only]) if not bytes_only.all() else np.unique(values.astype(np.uint8))
    wrong = [f"{value:.9g}" for value in found.tolist() if not bytes_only.all() or not declared[value]]
    if wrong:
        raise ValueError(
            f"{source}: label values must be among those that dataset.json declares "
            f"({', '.join(map(str, declared.nonzero()[0]))}); found {', '.join(wrong[:10])}"
            f'{", ..." if len(wrong) > 10 else ""}. Declare them under "labels" ([] means background), or correct the '
            "label."
        )
