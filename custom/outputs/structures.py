"""The structures of the prompt (a tumour in the left kidney, say), from the classes that were decoded, and figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.inferers.result import Mask, Segmentation
from custom.prompts.grammar import Structure
from custom.utils.geometry import voxel_volume_ml
from custom.utils.masks import bounding_box


class StructureMasks(Mapping[AnatomicalClass, Mask]):
    """Masks (H, W, D) of structures, each under its class with the structure's title for a name.

    A mask is made of those of the classes that it needs when it is looked up, and not kept: one takes memory at a time.
    """

    def __init__(self, segmentation: Segmentation, structures: Sequence[Structure], class_set: ClassSet) -> None:
        self.segmentation = segmentation
        self.structures = {replace(class_set[item.index], name=item.title(class_set)): item for item in structures}

    def __len__(self) -> int:
        return len(self.structures)

    def __iter__(self) -> Iterator[AnatomicalClass]:
        return iter(self.structures)

    def __getitem__(self, item: AnatomicalClass) -> Mask:
        structure = self.structures[item]
        mask = self.segmentation.mask(structure.index)
        if structure.within is not None:
            mask &= self.segmentation.mask(structure.within)
        for index in structure.without:
            mask &= ~self.segmentation.mask(index)
        return mask


def measure(
    mask: npt.NDArray[np.bool_], image: npt.NDArray[np.floating[Any]], affine: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Measure a mask (H, W, D) on an image (H, W, D) with its voxel-to-world ``affine`` (4, 4), RAS+ in mm.

    The box is that of the outer faces of the outermost voxels; an empty mask has none, and no HU.
    """
    voxels = int(mask.sum())
    result: dict[str, Any] = {"voxels": voxels, "volume_ml": round(voxels * voxel_volume_ml(affine), 4)}
    if not voxels:
        return result | {"mean_hu": None, "sd_hu": None, "bounding_box_mm": None}
    values = image[mask]
    faces = [(side.start - 0.5, side.stop - 0.5) for side in bounding_box(mask)]
    world = apply_affine(affine, np.array(list(product(*faces))))
    return result | {
        "mean_hu": round(float(values.mean(dtype=np.float64)), 2),
        "sd_hu": round(float(values.std(dtype=np.float64)), 2),
        "bounding_box_mm": {"min": world.min(0).round(3).tolist(), "max": world.max(0).round(3).tolist()},
    }
