"""Loading of volumes, with checks of everything that would make a mask wrong."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import KeysCollection
from monai.data import NibabelReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from custom.anatomy.class_set import ClassSet
from custom.imageio.checks import check_intensities, check_same_grid, open_image
from custom.imageio.readers import read_voxels
from custom.transforms.labels import check_label
from custom.utils.compat import without_nvimgcodec_warning


class LoadVolumed(LoadImaged):
    """MONAI's LoadImaged for one volume per key, with checks.

    Headers are checked by ``open_image``; the file is read to its end, where a compressed one has its checksum; voxels
    must be finite and, with ``check_intensity``, plausible for the modality (``check_intensities``); a label must have
    its image's grid and only values that the item's ``value_table``, if there is one, declares, other than those for
    left parts that ``SplitSidesd`` writes. All keys but ``label_key`` are images.
    """

    def __init__(
        self, keys: KeysCollection, class_set: ClassSet, *, label_key: str = "label", check_intensity: bool = True
    ) -> None:
        with without_nvimgcodec_warning():
            super().__init__(keys, image_only=True)
        self.class_set = class_set
        self.label_key = label_key
        self.check_intensity = check_intensity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            if key != self.label_key and self.label_key in self.keys:
                check_same_grid(data[key], data[self.label_key])
        result: dict[Hashable, Any] = super().__call__(data, _CheckedReader(self.class_set.modality))
        for key in self.key_iterator(result):
            source, values = data[key], result[key].as_tensor().numpy()
            if key == self.label_key:
                if "value_table" in result:
                    check_label(values, result["value_table"], result.get("sides", {}), source)
            elif wrong := int(np.count_nonzero(~np.isfinite(values))):
                raise ValueError(
                    f"Voxels must be finite numbers; {wrong} of {source} are NaN or infinite. Replace them, by air "
                    "(-1000) where nothing was measured."
                )
            elif self.check_intensity:
                check_intensities(values, self.class_set, source=source)
        return result


class _CheckedReader(NibabelReader):
    """MONAI's NibabelReader for the formats of ``open_image``, which refuses truncated files."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def read(self, data: Any, **kwargs: Any) -> nib.Nifti1Pair:
        self.filenames = ensure_tuple(data)
        return open_image(
            self.filenames[0], modality=self.modality
        )  # MONAI would replace the sform by an uncoded qform

    def _get_array_data(self, img: nib.Nifti1Image, filename: str | Path) -> npt.NDArray[Any]:
        return read_voxels(img)
