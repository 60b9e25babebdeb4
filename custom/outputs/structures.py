"""From the classes that were decoded to the structures of the prompt: a tumour in the left kidney, say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from custom.anatomy.class_set import AnatomicalClass, ClassSet
from custom.inferers.result import Mask, Segmentation
from custom.prompts.grammar import Structure


class StructureMasks(Mapping[AnatomicalClass, Mask]):
    """Masks (H, W, D) of structures, each under its class with the structure's title for a name.

    A mask is made when it is looked up and not kept: however many there are, one takes memory at a time.

    Args:
        segmentation: the masks of the classes that they need.
        structures: by the class and title of each.
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


def structure_masks(segmentation: Segmentation, structures: Sequence[Structure], class_set: ClassSet) -> StructureMasks:
    """Masks of structures, from those of the classes that they need."""
    named = {replace(class_set[item.index], name=item.title(class_set)): item for item in structures}
    return StructureMasks(segmentation, named, class_set)
