"""What a prepared case holds, and what about it looks wrong."""

from collections.abc import Mapping
from typing import Any

import cc3d
from monai.data import MetaTensor
from monai.utils import CommonKeys
from nibabel.affines import apply_affine

from custom.anatomy.class_set import ClassSet
from custom.transforms.sides import Points, body_points, middle_of_body
from custom.utils.geometry import voxel_volume_ml

#: Organs that lie on one side of the body's midline, in nearly everyone.
SITUS = {"liver": "right", "spleen": "left"}

#: How far, mm, from the midline on the other side such an organ's centroid is suspicious.
MARGIN_MM = 10.0


def quality_check(item: Mapping[str, Any], class_set: ClassSet) -> dict[str, Any]:
    """Facts of a prepared case.

    Args:
        item: what the preprocessing makes: ``image``, ``label`` (1, H, W, D), ``value_table`` (256, K) and
            ``fingerprint``.
        class_set: the K classes.

    Returns:
        ``classes``, for each labelled class its ``voxels`` and ``ml``; ``reasons``, why a person should look at the
        case; ``fingerprint``.
    """
    label: MetaTensor = item[CommonKeys.LABEL]
    affine = label.affine.numpy()
    voxel_ml = voxel_volume_ml(label.affine)
    statistics = cc3d.statistics(label[0].as_tensor().numpy(), no_slice_conversion=True)
    counts = statistics["voxel_counts"].astype(int)
    places = apply_affine(affine, statistics["centroids"])
    table = item["value_table"].numpy()[: len(counts)]
    classes: dict[str, dict[str, Any]] = {}
    for member in class_set:
        means = table[:, member.index - 1]
        if means[0] == 0:
            own = (means == 1) & (counts > 0)
            voxels = int(counts[own].sum())
            centroid = (places[own] * counts[own, None]).sum(0) / voxels if voxels else None
            classes[member.name] = {"voxels": voxels, "ml": voxels * voxel_ml, "place": centroid}
    body = body_points(item[CommonKeys.IMAGE], above=0.0)
    reasons = [*item.get("side_notes", []), *_reasons(classes, class_set, body)]
    return {
        "classes": {name: {"voxels": f["voxels"], "ml": f["ml"]} for name, f in classes.items()},
        "reasons": reasons,
        "fingerprint": item["fingerprint"],
    }


def _reasons(classes: Mapping[str, Mapping[str, Any]], class_set: ClassSet, body: Points) -> list[str]:
    places = {name: facts["place"] for name, facts in classes.items() if facts["voxels"]}
    if not places:
        return ["empty: no voxel of a labelled class"]
    reasons = []
    for right, left in _pairs(class_set):
        if (right in places) != (left in places) and {right, left} <= classes.keys():
            there, absent = (right, left) if right in places else (left, right)
            reasons.append(f"one side only: a {there} and no {absent}")
        elif {right, left} <= places.keys() and (apart := places[left][0] - places[right][0]) > 0:
            reasons.append(f"sides: the {right} lies left of the {left} by {apart:.0f} mm")
    for name, side in SITUS.items():
        if name in places:
            away = (places[name][0] - middle_of_body(body, places[name][None])) * (1 if side == "right" else -1)
            if away < -MARGIN_MM:
                reasons.append(f"sides: the {name} lies {-away:.0f} mm on the wrong side of the body's midline")
    return reasons


def _pairs(class_set: ClassSet) -> list[tuple[str, str]]:
    """Names of the right and left classes of groups of two."""
    pairs = []
    for members in dict.fromkeys(class_set.groups.values()):
        sides = {class_set[index].side: class_set[index].name for index in members}
        if len(members) == 2 and sides.keys() == {"right", "left"}:
            pairs.append((sides["right"], sides["left"]))
    return pairs
