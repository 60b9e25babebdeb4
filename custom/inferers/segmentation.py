"""From a preprocessed image to masks on its original grid, without holding probabilities of the whole volume."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms.utils import generate_spatial_bounding_box

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.result import Segmentation
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.inferers.window_predictor import named_prompts
from custom.inferers.windows import Slab, slab_axis
from custom.transforms.resampling import find_lines, interpolate

#: Planes of the original grid per interpolation.
PLANES = 32


@dataclass(eq=False, kw_only=True)
class SegmentingInferer(PromptedSlidingWindowInferer):
    """Sliding windows whose logits become masks on the image's original grid, slab by slab.

    A mask holds the voxels where the class's probability, interpolated linearly from the working grid, is at least 0.5,
    exactly as if whole probability volumes were interpolated. Memory holds one slab, as deep as a window, and one bit
    per voxel and class.

    Args:
        roi_size: as all other arguments, see ``PromptedSlidingWindowInferer``.
        cache: of window features, for further prompts; by default none are kept.
        entropy: also map the network's uncertainty, see ``Segmentation``.
    """

    cache: FeatureCache = field(default_factory=lambda: FeatureCache(gib=0))
    entropy: bool = False

    def __call__(  # type: ignore[override]
        self, inputs: MetaTensor, network: PromptedNetwork, text: torch.Tensor, named: torch.Tensor
    ) -> Segmentation:
        """Segment one preprocessed image (1, C, H, W, D) in RAS, with its metadata.

        ``text`` (1, P, E) are the vectors of P prompts, ``named`` (1, P, K) bool the channels to read under each.

        Raises:
            ValueError: several images, or a channel named by two prompts.
        """
        if inputs.shape[0] != 1:
            raise ValueError(f"One image is segmented at a time, not {inputs.shape[0]}: set the batch size to 1.")
        labels = named[0].any(0).nonzero().flatten() + 1
        masks = OriginalGridMasks(inputs[0], labels.tolist(), entropy=self.entropy)
        for slab in self.predict_slabs(inputs, network, text, named):
            masks.add(slab)
        return masks.segmentation()

    def predict_slabs(
        self, inputs: torch.Tensor, network: PromptedNetwork, text: torch.Tensor, named: torch.Tensor
    ) -> Iterator[Slab]:
        """Yield the logits of the named channels on the working grid; arguments as for ``__call__``."""
        prompts = named_prompts(text[0], named[0])
        with self.track_progress(inputs, prompts=1) as advance:
            yield from self.slabs(inputs, network, prompts, cache=self.cache, advance=advance)


class OriginalGridMasks:
    """Masks on an image's original grid, from slabs of logits on the working grid.

    The metadata of the preprocessed ``image`` (C, H, W, D) describe both grids. ``labels`` are the classes (1-based) of
    the channels, ascending.
    """

    def __init__(self, image: MetaTensor, labels: Sequence[int], *, entropy: bool) -> None:
        shape = [int(side) for side in image.meta["spatial_shape"]]
        self.labels = tuple(labels)
        self.affine = np.asarray(image.meta["original_affine"], np.float64)
        self.axis = slab_axis(image.shape[1:])
        self.lines = find_lines(
            shape, self.affine, from_shape=image.shape[1:], from_affine=image.affine, nothing=_cropped(image)
        )
        self.along = next(i for i, line in enumerate(self.lines) if line.source == self.axis)
        line = self.lines[self.along]
        self.needed = torch.maximum(line.low, line.high)  # last working plane that each original plane needs
        self.last = -1  # last working plane received
        self.bits = np.zeros((-(-len(labels) // 8), *shape), np.uint8)
        self.entropy = np.zeros(shape, np.uint8) if entropy else None
        self.sums = np.zeros(len(labels))
        self.counts = np.zeros(len(labels), np.int64)

    def add(self, slab: Slab) -> None:
        """Write the original planes between the previous slab's last plane and this slab's."""
        last = slab.start + slab.logits.shape[self.axis + 1] - 1
        ready = ((self.needed <= last) & (self.needed > self.last)).nonzero().flatten()
        self.last = last
        if not len(ready):
            return
        first, stop = int(ready[0]), int(ready[-1]) + 1
        boxes = [generate_spatial_bounding_box(logits[None], lambda x: x >= 0) for logits in slab.logits]
        for start in range(first, stop, PLANES):
            planes = slice(start, min(start + PLANES, stop))
            for channel, box in enumerate(boxes):
                if any(box[1]):
                    self._write_mask(channel, slab, box, planes)
            if self.entropy is not None:
                self._write_entropy(slab, planes)

    def segmentation(self) -> Segmentation:
        """The result, once the last slab is added."""
        probability = {
            label: float(self.sums[i] / self.counts[i]) if self.counts[i] else None
            for i, label in enumerate(self.labels)
        }
        return Segmentation(self.labels, self.bits, self.affine, probability, self.entropy)

    def _write_mask(self, channel: int, slab: Slab, box: Sequence[Sequence[int]], planes: slice) -> None:
        """Write a channel's mask in some original planes, from the bounding box (start, stop) of its logits >= 0."""
        target = []
        for axis, line in enumerate(self.lines):
            offset = slab.start if axis == self.along else 0
            voxels = line.touching(box[0][line.source] + offset, box[1][line.source] - 1 + offset)
            if axis == self.along:
                voxels = slice(max(voxels.start, planes.start), min(voxels.stop, planes.stop))
            target.append(voxels)
        if any(part.stop <= part.start for part in target):
            return
        probability = self._interpolate(slab.logits[channel], slab, target)
        mask = probability >= 0.5
        self.sums[channel] += float(probability[mask].double().sum())
        self.counts[channel] += int(mask.sum())
        plane, bit = divmod(channel, 8)
        part = self.bits[plane][target[0], target[1], target[2]]
        part |= mask.cpu().numpy().astype(np.uint8) << np.uint8(bit)

    def _interpolate(self, logits: torch.Tensor, slab: Slab, target: Sequence[slice]) -> torch.Tensor:
        """Probabilities in a box of the original grid, from logits (H, W, D) of the slab."""
        parts, source = [], [slice(0, 0)] * 3
        for axis, (line, voxels) in enumerate(zip(self.lines, target, strict=True)):
            part = line.part(voxels)
            low, high = int(torch.minimum(part.low, part.high).min()), int(torch.maximum(part.low, part.high).max())
            parts.append(part.shifted(low))
            offset = slab.start if axis == self.along else 0
            source[line.source] = slice(low - offset, high - offset + 1)
        return interpolate(logits[tuple(source)].sigmoid(), parts)

    def _write_entropy(self, slab: Slab, planes: slice) -> None:
        assert self.entropy is not None
        highest = functools.reduce(torch.maximum, map(_binary_entropy, slab.logits))
        target = [slice(0, len(line.low)) if axis != self.along else planes for axis, line in enumerate(self.lines)]
        entropy = self._interpolate(torch.logit(highest), slab, target)
        self.entropy[tuple(target)] = (entropy * 255).round().clamp(0, 255).byte().cpu().numpy()


def _binary_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Binary entropy, in bits, of the probabilities."""
    p = logits.sigmoid()
    entropy: torch.Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
    return entropy / math.log(2)


def _cropped(image: MetaTensor) -> list[tuple[bool, bool]]:
    """Whether MONAI's CropForeground removed planes at either end of each axis, where every mask is empty."""
    for operation in reversed(image.applied_operations):
        if "cropped" in operation.get("extra_info", {}):
            removed = [int(planes) > 0 for planes in operation["extra_info"]["cropped"]]
            return list(zip(removed[::2], removed[1::2], strict=True))
    return [(False, False)] * 3
