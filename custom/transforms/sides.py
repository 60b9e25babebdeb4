"""Splitting labels of paired organs ("kidneys") into right and left."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal, NamedTuple

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from scipy.spatial import cKDTree

from custom.anatomy.class_set import ClassSet
from custom.imageio.checks import intensity_window
from custom.utils.geometry import grid_corners
from custom.utils.masks import Mask

CLEAR_SHARE = 1 / 3  #: a second component of at least this fraction of the largest is the other side's in any case
LEAST_SHARE = 0.05  #: one below this fraction is an island
SPANNING_SHARE = 0.25  #: a component with this fraction of its voxels on either side of the midline is both in one
MARGIN_MM = 10.0  #: distance from the midline beyond which a component is surely on that side; tolerance of heights
REACH_MM = 20.0  #: largest distance from the midline of the plane that cuts a component which erosion does not separate
COARSE_MM, EROSIONS = 2.0, 12  #: voxel size for separating organs that touch, and the largest number of erosions

Points = npt.NDArray[np.float64]
Affine = npt.NDArray[np.float64]


class SplitSidesd(MapTransform):
    """Give the right and the left part of paired organs separate values.

    For a label (1, H, W, D) of raw values 0..255 on its raw grid, in any orientation, and the item's ``sides``:
    group name -> {raw value: (value of its right part, value of its left part)}. All values of a group are split
    together, so that a tumour follows its kidney. Of the two largest 26-connected components, the one whose centroid
    has the smaller world x (RAS) is the patient's left; each other component goes to the nearer of the two.

    Without two clear components, the body's midline at their height (median x of the voxels above the lower end of the
    intensity window) decides, and the item's list ``side_notes`` gets a line ("<group>: ..."):

    - one component on both sides of it is separated by the fewest erosions, each of its voxels going to the nearer
      remainder; if none separates it, by the plane of constant x near the midline that cuts the fewest voxels;
    - otherwise the whole group is on the side of its largest component.

    Returns a label uint8; one without ``sides`` is unchanged. ``class_set`` has the intensity window.
    """

    def __init__(self, keys: KeysCollection, class_set: ClassSet, *, image_key: str = "image") -> None:
        super().__init__(keys)
        self.class_set = class_set
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        if not (sides := result.get("sides")):
            return result
        notes: list[str] = []
        for key in self.key_iterator(result):
            label: MetaTensor = result[key]
            values = label[0].as_tensor().numpy().astype(np.uint8)
            affine = label.affine.numpy()
            image: MetaTensor = result[self.image_key]
            body = body_points(image, above=intensity_window(image.as_tensor().numpy(), self.class_set)[0])
            for group, parts in sides.items():
                notes += [f"{group}: {note}" for note in _split(values, parts, affine, body)]
            result[key] = MetaTensor(torch.from_numpy(values)[None], meta=label.meta)
        return result | {"side_notes": notes}


def body_points(image: MetaTensor, *, above: float) -> Points:
    """World positions (N, 3), mm, of voxels of an image (1, H, W, D) brighter than ``above``, one of 4³ sampled.

    The centre of the grid if there are none.
    """
    body = 2 + 4 * np.argwhere(image[0, 2::4, 2::4, 2::4].as_tensor().numpy() > above)
    middle = (np.array([image.shape[1:]]) - 1) / 2
    return np.asarray(apply_affine(image.affine.numpy(), body if len(body) else middle))


def middle_of_body(body: Points, positions: Points) -> float:
    """World x, mm, of the body's midline at the height of some positions (N, 3): median of the body's points there."""
    height, heights = body[:, 2], positions[:, 2]
    nearby = body[(height >= heights.min() - MARGIN_MM) & (height <= heights.max() + MARGIN_MM)]
    return float(np.median((nearby if len(nearby) else body)[:, 0]))


def _split(
    values: npt.NDArray[np.uint8], parts: Mapping[int, tuple[int, int]], affine: Affine, body: Points
) -> list[str]:
    """Rewrite the values of one group in place; return notes if it is not two clear components."""
    group = np.isin(values, list(parts))
    if not group.any():
        return []
    (box,) = ndimage.find_objects(group.view(np.uint8))
    box_affine = affine.copy()
    box_affine[:3, 3] = apply_affine(affine, [axis.start for axis in box])
    mask = np.ascontiguousarray(group[box])
    corners = apply_affine(box_affine, grid_corners(mask.shape))
    left, notes = _left_part(mask, box_affine, middle_of_body(body, corners))
    to_right, to_left = np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8)
    for raw, (right_value, left_value) in parts.items():
        to_right[raw], to_left[raw] = right_value, left_value
    values[box] = np.where(left, to_left[values[box]], to_right[values[box]])
    return notes


class _Components(NamedTuple):
    """Components of a mask, numbered from 1."""

    labels: npt.NDArray[np.integer[Any]]
    order: npt.NDArray[np.intp]  # numbers, largest first
    x: npt.NDArray[np.float64]  # world x of the centroids, mm, by number
    share: float  # size of the second largest relative to the largest

    def two_largest(self) -> tuple[Mask, Mask]:
        """The two largest, left and right."""
        left, right = sorted(self.order[:2], key=lambda number: self.x[number])
        return self.labels == left, self.labels == right


def _components(mask: Mask, affine: Affine, *, connectivity: Literal[6, 26] = 26) -> _Components:
    labels = cc3d.connected_components(mask, connectivity=connectivity)
    statistics = cc3d.statistics(labels, no_slice_conversion=True)
    sizes = statistics["voxel_counts"].astype(float)
    order = 1 + np.argsort(-sizes[1:], kind="stable")
    share = float(sizes[order[1]] / sizes[order[0]]) if len(order) > 1 else 0.0
    return _Components(labels, order, _world_x(statistics["centroids"], affine), share)


def _left_part(mask: Mask, affine: Affine, midline: float) -> tuple[Mask, list[str]]:
    """The left part of a non-empty mask, and notes if it is not two clear components.

    Cached cases hold the notes: their wording may change only together with the keys (``custom.datasets.cache_keys``).
    """
    found = _components(mask, affine)
    away = found.x[found.order[:2]] - midline
    same_side = bool((away > MARGIN_MM).all() or (away < -MARGIN_MM).all())
    notes = []
    if found.share < CLEAR_SHARE and (parts := _cut(found.labels == found.order[0], affine, midline)):
        left, right, how = parts
        notes = [f"cut in two, {how}, for they are one component"]
    elif found.share >= CLEAR_SHARE or (found.share >= LEAST_SHARE and not same_side):
        left, right = found.two_largest()
        if same_side:
            notes = [f"both on one side of the body's midline (x {midline:.0f} mm)"]
    else:
        is_left = away[0] < 0
        share = f"the second component has {found.share:.1%} of the largest" if found.share else "no second component"
        side = "left" if is_left else "right"
        where = f"{abs(away[0]):.0f} mm from the body's midline"
        return np.full(mask.shape, is_left), [f"one side only, the {side} ({where}; {share})"]
    islands = cc3d.connected_components(mask & ~left & ~right)
    if islands.any():
        left[islands > 0] = _nearer_is_left(islands, left, right, affine)
    return left, notes


def _cut(mask: Mask, affine: Affine, midline: float) -> tuple[Mask, Mask, str] | None:
    """Left and right of one component, and how they were separated; None if it is not on both sides of the midline."""
    steps = np.maximum(1, np.rint(COARSE_MM / voxel_sizes(affine))).astype(int)
    coarse = np.ascontiguousarray(mask[tuple(slice(None, None, step) for step in steps)])
    affine = affine @ np.diag([*steps, 1])
    left_share = float(np.mean(_world_x(np.argwhere(coarse), affine) < midline))
    if not SPANNING_SHARE <= left_share <= 1 - SPANNING_SHARE:
        return None
    is_left, how = _cut_by_erosion(coarse, affine, midline) or _cut_by_plane(coarse, affine, midline)
    cells = (np.arange(size) // step for size, step in zip(mask.shape, steps, strict=True))
    left = mask & is_left[np.ix_(*cells)]
    return left, mask & ~left, how


def _cut_by_erosion(mask: Mask, affine: Affine, midline: float) -> tuple[Mask, str] | None:
    """Voxels, of the mask or not, that are nearer to the left of two remainders of an erosion, and a description."""
    eroded = mask
    for count in range(1, EROSIONS + 1):
        eroded = ndimage.binary_erosion(eroded)
        found = _components(eroded, affine, connectivity=6)
        if found.share >= CLEAR_SHARE and np.ptp(np.sign(found.x[found.order[:2]] - midline)) == 2:
            to_left, to_right = (
                ndimage.distance_transform_edt(~part, sampling=voxel_sizes(affine)) for part in found.two_largest()
            )
            depth = count * float(voxel_sizes(affine).mean())
            return np.asarray(to_left < to_right), f"where an erosion by {depth:.0f} mm parts them"
    return None


def _cut_by_plane(mask: Mask, affine: Affine, midline: float) -> tuple[Mask, str]:
    """Voxels, of the mask or not, left of the plane near the midline that cuts the fewest, and a description."""
    x = _world_x(np.moveaxis(np.indices(mask.shape), 0, -1), affine)
    width = float(np.abs(affine[0, :3]).max())
    edges = np.arange(midline - REACH_MM, midline + REACH_MM + width, width)
    plane = float(edges[np.histogram(x[mask], edges)[0].argmin()] + width / 2)
    return x < plane, f"by the plane x = {plane:.0f} mm"


def _nearer_is_left(islands: npt.NDArray[np.integer[Any]], left: Mask, right: Mask, affine: Affine) -> Mask:
    """For each voxel of numbered islands, whether its island is nearer to the left part than to the right one."""
    own = islands[islands > 0]
    positions = apply_affine(affine, np.argwhere(islands))
    nearest = []
    for part in (left, right):
        surface = part & ~ndimage.binary_erosion(part)
        distance, _ = cKDTree(apply_affine(affine, np.argwhere(surface))).query(positions)
        nearest.append(ndimage.minimum(distance, own, np.arange(1, own.max() + 1)))
    return np.asarray((nearest[0] < nearest[1])[own - 1])


def _world_x(points: npt.NDArray[Any], affine: Affine) -> npt.NDArray[np.float64]:
    """World x, mm, of voxel indices (..., 3)."""
    return np.asarray(points @ affine[0, :3] + affine[0, 3])
