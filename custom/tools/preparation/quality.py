"""Volumes of a prepared case, and reasons why a person should look at it."""

from collections.abc import Mapping
from typing import Any

import cc3d
from monai.data import MetaTensor
from monai.utils import CommonKeys
from nibabel.affines import apply_affine

from custom.anatomy.class_set import ClassSet
from custom.transforms.sides import Points, body_points, middle_of_body
from custom.utils.geometry import voxel_volume_ml

#: Organs on one side of the body's midline, in nearly everyone.
SITUS = {"liver": "right", "spleen": "left"}

MARGIN_MM = 10.0  #: distance of such an organ's centroid beyond the midline that is suspicious


def quality_check(item: Mapping[str, Any], class_set: ClassSet) -> dict[str, Any]:
    """Volumes of the labelled classes of a case, and what is suspicious about it.

    Args:
        item: a prepared case: ``image``, ``label`` (1, H, W, D), ``value_table`` (256, K) and
            ``fingerprint``.
        class_set: the K classes.

    Returns:
        ``classes``, for each labelled class its ``voxels`` and ``ml``; ``reasons``, texts; ``fingerprint``.
    """
    label: MetaTensor = item[CommonKeys.LABEL]
    voxel_ml = voxel_volume_ml(label.affine)
    statistics = cc3d.statistics(label[0].as_tensor().numpy(), no_slice_conversion=True)
    counts = statistics["voxel_counts"].astype(int)
    centroids = apply_affine(label.affine.numpy(), statistics["centroids"])
    table = item["value_table"].numpy()[: len(counts)]
    classes: dict[str, dict[str, Any]] = {}
    for member in class_set:
        means = table[:, member.index - 1]
        if means[0] == 0:
            own = (means == 1) & (counts > 0)
            voxels = int(counts[own].sum())
            centroid = (centroids[own] * counts[own, None]).sum(0) / voxels if voxels else None
            classes[member.name] = {"voxels": voxels, "ml": voxels * voxel_ml, "centroid": centroid}
    body = body_points(item[CommonKeys.IMAGE], above=0.0)
    reasons = [*item.get("side_notes", []), *_reasons(classes, class_set, body)]
    return {
        "classes": {name: {"voxels": f["voxels"], "ml": f["ml"]} for name, f in classes.items()},
        "reasons": reasons,
        "fingerprint": item["fingerprint"],
    }


def _reasons(classes: Mapping[str, Mapping[str, Any]], class_set: ClassSet, body: Points) -> list[str]:
    centroids = {name: facts["centroid"] for name, facts in classes.items() if facts["voxels"]}
    if not centroids:
        return ["empty: no voxel of a labelled class"]
    reasons = []
    for right, left in _pairs(class_set):
        if (right in centroids) != (left in centroids) and {right, left} <= classes.keys():
            present, absent = (right, left) if right in centroids else (left, right)
            reasons.append(f"one side only: a {present} and no {absent}")
        elif {right, left} <= centroids.keys() and (apart := centroids[left][0] - centroids[right][0]) > 0:
            reasons.append(f"sides: the {right} lies left of the {left} by {apart:.0f} mm")
    for name, side in SITUS.items():
        if name in centroids:
            offset = centroids[name][0] - middle_of_body(body, centroids[name][None])
            beyond = -offset if side == "right" else offset
            if beyond > MARGIN_MM:
                reasons.append(f"sides: the {name} lies {beyond:.0f} mm on the wrong side of the body's midline")
    return reasons


def _pairs(class_set: ClassSet) -> list[tuple[str, str]]:
    """Names (right, left) of paired classes."""
    pairs = []
    for members in dict.fromkeys(class_set.groups.values()):
        sides = {class_set[index].side: class_set[index].name for index in members}
        if len(members) == 2 and sides.keys() == {"right", "left"}:
            pairs.append((sides["right"], sides["left"]))
    return pairs
