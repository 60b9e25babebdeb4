"""From the classes that were decoded to the structures that were asked for: a tumour in the left kidney, say."""

import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.inferers.result import Mask, Segmentation
from custom.prompts.grammar import Structure


class StructureMasks(Mapping[AnatomicalClass, Mask]):
    """Masks (H, W, D) of structures, each under its class with the structure's title for a name.

    A mask is made when it is looked up, and held by nobody: however many there are, one takes memory at a time.

    Args:
        segmentation: the masks of the classes that they need.
        structures: what was asked for.
        class_set: what the classes are called.
    """

    def __init__(
        self, segmentation: Segmentation, structures: Mapping[AnatomicalClass, Structure], class_set: ClassSet
    ) -> None:
        self.segmentation = segmentation
        self.structures = structures
        self.class_set = class_set

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


def structure_masks(segmentation: Segmentation, data: Mapping[Hashable, Any], class_set: ClassSet) -> StructureMasks:
    """Masks of the structures that an item asks for.

    Args:
        segmentation: what was found.
        data: ``request``, as ``ResolvePromptd`` adds it.
        class_set: what the classes are called.
    """
    structures = [Structure(i, within, tuple(less)) for i, within, less in read_request(data)["structures"]]
    named = {replace(class_set[item.index], name=item.title(class_set)): item for item in structures}
    return StructureMasks(segmentation, named, class_set)


def read_request(data: Mapping[Hashable, Any]) -> dict[str, Any]:
    """How an item's prompt was read, see ``ResolvePromptd``."""
    request: dict[str, Any] = json.loads(data["request"])
    return request
