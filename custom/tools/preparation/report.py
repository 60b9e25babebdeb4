"""What prepared cases contain: classes and volumes of each case and data set, suspicious and failed cases."""

import csv
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from statistics import median
from typing import Any

import cc3d
from monai.data import MetaTensor
from monai.utils import CommonKeys
from nibabel.affines import apply_affine

from custom.anatomy.class_set import ClassSet
from custom.transforms.sides import Points, body_points, middle_of_body
from custom.utils.files import atomic_write
from custom.utils.geometry import voxel_volume_ml

TIMES_MEDIAN, USUAL_FRACTION = 5.0, 0.5  #: what makes volumes suspicious, see ``summarise``

#: Organs on one side of the body's midline, in nearly everyone.
SITUS = {"liver": "right", "spleen": "left"}

MARGIN_MM = 10.0  #: distance of such an organ's centroid beyond the midline that is suspicious


def quality_check(item: Mapping[str, Any], class_set: ClassSet) -> dict[str, Any]:
    """Volumes of the labelled classes of a case, and what is suspicious about it alone.

    Args:
        item: a prepared case: ``image``, ``label`` (1, H, W, D), ``value_table`` (256, K) and ``fingerprint``.
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
    middles: dict[str, Any] = {}
    for member in class_set:
        means = table[:, member.index - 1]
        if means[0] == 0:
            own = (means == 1) & (counts > 0)
            voxels = int(counts[own].sum())
            classes[member.name] = {"voxels": voxels, "ml": voxels * voxel_ml}
            if voxels:
                middles[member.name] = (centroids[own] * counts[own, None]).sum(0) / voxels
    reasons = _reasons(middles, classes, class_set, body_points(item[CommonKeys.IMAGE], above=0.0))
    return {"classes": classes, "reasons": [*item.get("side_notes", []), *reasons], "fingerprint": item["fingerprint"]}


def _reasons(centroids: Mapping[str, Any], labelled: Collection[str], class_set: ClassSet, body: Points) -> list[str]:
    if not centroids:
        return ["empty: no voxel of a labelled class"]
    reasons = []
    for right, left in _pairs(class_set):
        if (right in centroids) != (left in centroids) and right in labelled and left in labelled:
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
    groups = [members for members in dict.fromkeys(class_set.groups.values()) if len(members) == 2]
    sides = [{class_set[index].side: class_set[index].name for index in members} for members in groups]
    return [(pair["right"], pair["left"]) for pair in sides if pair.keys() == {"right", "left"}]


def summarise(cases: Sequence[Mapping[str, Any]], class_set: ClassSet) -> dict[str, Any]:
    """The report of cases.

    Besides the reasons of ``quality_check``, a case is suspicious if the volume of an organ (not of a lesion, for these
    vary) is more than ``TIMES_MEDIAN`` times the median of its data set, or 0 where more than ``USUAL_FRACTION`` of the
    cases have it; or if its image is in another split too, under whatever name: data sets have many scans in common.

    Args:
        cases: for each ``dataset``, ``split``, ``image``, ``label`` and either ``error`` or ``classes``,
            ``reasons`` and ``fingerprint`` (see ``quality_check``).
        class_set: the classes.

    Returns:
        ``cases`` (how many); ``datasets``: name -> ``cases``, ``never_seen`` (names of classes that are labelled and do
        not occur) and ``classes``: name -> ``labelled`` and ``cases`` (how many label it, how many contain it),
        ``voxels`` of all, ``median_ml``, ``least_ml`` and ``most_ml`` of those that contain it; ``duplicates``: lists
        of files with the same image, in one split or in several; ``failed`` and ``suspicious``, cases with their
        ``reasons``.
    """
    datasets: dict[str, Any] = {}
    reasons: dict[int, list[str]] = {number: list(case.get("reasons", [])) for number, case in enumerate(cases)}
    for name in sorted({case["dataset"] for case in cases}):
        own = {number: case.get("classes", {}) for number, case in enumerate(cases) if case["dataset"] == name}
        classes = {member.name: facts for member in class_set if (facts := _facts(member.name, own.values()))}
        never = [item for item, facts in classes.items() if not facts["cases"]]
        datasets[name] = {"cases": len(own), "never_seen": never, "classes": classes}
        for number, volumes in own.items():
            reasons[number] += _odd_volumes(volumes, classes, class_set)

    same: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        if "fingerprint" in case:
            same[case["fingerprint"]].append(number)
    duplicates = [numbers for numbers in same.values() if len(numbers) > 1]
    for number, other in (pair for numbers in duplicates for pair in permutations(numbers, 2)):
        if (split := cases[other]["split"]) != cases[number]["split"]:
            reasons[number].append(f"duplicate: the split {split} has the same image, {cases[other]['image']}")

    def listed(number: int, texts: list[str]) -> dict[str, Any]:
        return {key: cases[number][key] for key in ("dataset", "split", "image", "label")} | {"reasons": texts}

    return {
        "cases": len(cases),
        "failed": [listed(number, [case["error"]]) for number, case in enumerate(cases) if "error" in case],
        "suspicious": [listed(number, texts) for number, texts in reasons.items() if texts],
        "duplicates": [[cases[number]["image"] for number in numbers] for numbers in duplicates],
        "datasets": datasets,
    }


def _facts(name: str, cases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one class in the cases of a data set; empty where none labels it."""
    labelled = [classes[name] for classes in cases if name in classes]
    if not labelled:
        return {}
    present = [facts["ml"] for facts in labelled if facts["voxels"]]
    voxels = sum(facts["voxels"] for facts in labelled)
    volumes = {"median_ml": median(present), "least_ml": min(present), "most_ml": max(present)} if present else {}
    return {"labelled": len(labelled), "cases": len(present), "voxels": voxels} | volumes


def _odd_volumes(volumes: Mapping[str, Any], classes: Mapping[str, Any], class_set: ClassSet) -> list[str]:
    if not any(facts["voxels"] for facts in volumes.values()):
        return []  # the whole case is empty, which is reported once
    reasons = []
    for name, facts in volumes.items():
        usual = classes[name]
        if class_set[class_set.index(name)].part_of or not usual["cases"]:
            continue
        if facts["ml"] > TIMES_MEDIAN * usual["median_ml"]:
            reasons.append(f"volume: {name} {facts['ml']:.0f} mL, the median is {usual['median_ml']:.0f} mL")
        elif not facts["voxels"] and usual["cases"] > USUAL_FRACTION * usual["labelled"]:
            reasons.append(f"volume: no {name}, which {usual['cases']} of {usual['labelled']} cases have")
    return reasons


def write_report(cases: Sequence[Mapping[str, Any]], class_set: ClassSet, folder: str | Path) -> dict[str, Any]:
    """Write ``preparation.json`` (see ``summarise``) and ``preparation.csv``, a line per case and labelled class."""
    report = summarise(cases, class_set)
    with atomic_write(Path(folder) / "preparation.json") as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    table = Path(folder) / "preparation.csv"
    with atomic_write(table) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("dataset", "split", "case", "class", "voxels", "ml"))
        for case in cases:
            known = (case["dataset"], case["split"], case["label"])
            for name, facts in case.get("classes", {}).items():
                writer.writerow((*known, name, facts["voxels"], f"{facts['ml']:.3f}"))
    return report
