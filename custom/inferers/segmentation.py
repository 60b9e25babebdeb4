"""From a prepared image to masks on the image's own grid, without ever holding the probabilities of a whole volume."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from custom.inferers.feature_cache import FeatureCache
from custom.inferers.protocols import PromptedNetwork
from custom.inferers.result import Segmentation
from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.inferers.window_predictor import PromptQuery
from custom.inferers.windows import Slab, slab_axis
from custom.transforms.resampling import find_lines, interpolate

#: Planes of the image's grid that are interpolated at once.
PLANES = 32


class SegmentingInferer(PromptedSlidingWindowInferer):
    """Sliding windows whose logits become masks on the image's own grid, a slab at a time.

    A mask holds the voxels of the image where the class's probability, interpolated linearly from the working grid, is
    at least 0.5: exactly what interpolating whole probability volumes gives. Of these only a slab as deep as a window
    is ever held; what remains is a bit a voxel and class.

    Args:
        roi_size: see ``PromptedSlidingWindowInferer``.
        cache: features of windows, kept from one prompt to the next; None keeps none.
        entropy: also map how unsure the network is, see ``Segmentation``.
        **windows: any further argument of ``PromptedSlidingWindowInferer``.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        *,
        cache: FeatureCache | None = None,
        entropy: bool = False,
        **windows: Any,
    ) -> None:
        super().__init__(roi_size, **windows)
        self.cache = FeatureCache(gib=0) if cache is None else cache
        self.entropy = entropy

    def __call__(  # type: ignore[override]
        self,
        inputs: MetaTensor,
        network: PromptedNetwork,
        text: torch.Tensor,
        named: torch.Tensor,
    ) -> Segmentation:
        """Find what one image is asked for.

        Args:
            inputs: one prepared image (1, C, H, W, D) in RAS with its meta data.
            network: see ``PromptedNetwork``.
            text: (1, P, E), the vectors of P prompts.
            named: (1, P, K) bool: the channels to read from each; none from two of one image.

        Raises:
            ValueError: several images, or prompts that name a class twice.
        """
        if inputs.shape[0] != 1:
            raise ValueError(f"One image is segmented at a time, not {inputs.shape[0]}: set the batch size to 1.")
        image = inputs[0]
        channels = named[0].any(0).nonzero().flatten().tolist()
        restoring = OriginalGridMasks(image, [channel + 1 for channel in channels], entropy=self.entropy)
        for slab in self.predict_slabs(inputs, network, text, named):
            restoring.add(slab)
        return restoring.segmentation()

    def predict_slabs(
        self,
        inputs: torch.Tensor,
        network: PromptedNetwork,
        text: torch.Tensor,
        named: torch.Tensor,
    ) -> Iterator[Slab]:
        """Yield the logits of the classes asked for on the working grid; arguments are those of ``__call__``."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        with self.watch(inputs, prompts=1) as advance:
            yield from self.slabs(image, network, PromptQuery.of(text[0], named[0]), cache=self.cache, advance=advance)


class OriginalGridMasks:
    """Turn logits on the working grid, slab by slab, into masks on the image's grid.

    Args:
        image: the prepared image (C, H, W, D), whose meta data say where it lies and where it came from.
        labels: the classes (1-based) of the channels, ascending.
        entropy: whether to map it.
    """

    def __init__(self, image: MetaTensor, labels: Sequence[int], *, entropy: bool = False) -> None:
        shape = [int(side) for side in image.meta["spatial_shape"]]
        self.labels = tuple(labels)
        self.affine = np.asarray(image.meta["original_affine"], np.float64)
        axis = self.axis = slab_axis(image.shape[1:])
        self.lines = find_lines(
            shape,
            self.affine,
            from_shape=image.shape[1:],
            from_affine=np.asarray(image.affine, np.float64),
            nothing=_cropped(image),
        )
        self.along = next(i for i, line in enumerate(self.lines) if line.source == axis)
        line = self.lines[self.along]
        self.needed = torch.maximum(line.low, line.high)
        self.done = -1
        self.bits = np.zeros((-(-len(labels) // 8), *shape), np.uint8)
        self.entropy = np.zeros(shape, np.uint8) if entropy else None
        self.sums = np.zeros(len(labels))
        self.counts = np.zeros(len(labels), np.int64)

    def add(self, slab: Slab) -> None:
        """Write what a slab and the last plane of the slab before it decide."""
        last = slab.start + slab.logits.shape[self.axis + 1] - 1
        ready = ((self.needed <= last) & (self.needed > self.done)).nonzero().flatten()
        self.done = last
        if not len(ready):
            return
        first, stop = int(ready[0]), int(ready[-1]) + 1
        boxes = [_box(channel >= 0) for channel in slab.logits]
        for start in range(first, stop, PLANES):
            planes = slice(start, min(start + PLANES, stop))
            for i, box in enumerate(boxes):
                if box is not None:
                    self._write(i, slab, box, planes)
            if self.entropy is not None:
                self._write_entropy(slab, planes)

    def segmentation(self) -> Segmentation:
        """All that was found, once the last slab is in."""
        probability = {
            label: float(self.sums[i] / self.counts[i]) if self.counts[i] else None
            for i, label in enumerate(self.labels)
        }
        return Segmentation(self.labels, self.bits, self.affine, probability, self.entropy)

    def _write(self, i: int, slab: Slab, box: Sequence[tuple[int, int]], planes: slice) -> None:
        """Write the mask of channel i in some planes of the image, from the box (in the slab) where it is not empty."""
        target = []
        for axis, line in enumerate(self.lines):
            offset = slab.start if axis == self.along else 0
            found = line.touching(box[line.source][0] + offset, box[line.source][1] + offset)
            if axis == self.along:
                found = slice(max(found.start, planes.start), min(found.stop, planes.stop))
            target.append(found)
        if any(part.stop <= part.start for part in target):
            return
        probability = self._interpolate(slab.logits[i], slab, target)
        mask = probability >= 0.5
        self.sums[i] += float(probability[mask].double().sum())
        self.counts[i] += int(mask.sum())
        plane, bit = divmod(i, 8)
        part = self.bits[plane][target[0], target[1], target[2]]
        part |= mask.cpu().numpy().astype(np.uint8) << np.uint8(bit)

    def _interpolate(self, logits: torch.Tensor, slab: Slab, target: Sequence[slice]) -> torch.Tensor:
        """Probabilities of one channel (H, W, D of the slab) in a box of the image's grid."""
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
        highest: torch.Tensor | None = None
        for channel in slab.logits:
            p = channel.sigmoid()
            bits = (torch.special.entr(p) + torch.special.entr(1 - p)) / float(np.log(2))
            highest = bits if highest is None else torch.maximum(highest, bits)
        assert highest is not None
        target = [slice(0, len(line.low)) if i != self.along else planes for i, line in enumerate(self.lines)]
        everywhere = self._interpolate(torch.logit(highest), slab, target)
        self.entropy[tuple(target)] = (everywhere * 255).round().clamp(0, 255).byte().cpu().numpy()


def _box(found: torch.Tensor) -> list[tuple[int, int]] | None:
    """First and last index along each axis where a mask (H, W, D) is not empty; None of an empty one."""
    if not bool(found.any()):
        return None
    box = []
    for axis in range(3):
        along = found.any(dim=(axis + 1) % 3).any(dim=0 if axis == 2 else (0 if axis == 1 else 1))
        places = along.nonzero().flatten()
        box.append((int(places[0]), int(places[-1])))
    return box


def _cropped(image: MetaTensor) -> list[tuple[bool, bool]]:
    """For both ends of each axis, whether MONAI's CropForeground took planes away, where nothing is to be found."""
    for operation in reversed(image.applied_operations):
        if "cropped" in operation.get("extra_info", {}):
            taken = [int(planes) > 0 for planes in operation["extra_info"]["cropped"]]
            return list(zip(taken[::2], taken[1::2], strict=True))
    return [(False, False)] * 3
