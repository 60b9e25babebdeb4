"""The report of prepared cases: classes and volumes of each data set, suspicious and failed cases."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from custom.anatomy.class_set import ClassSet
from custom.utils.files import atomic_write

#: An organ of more than this many times the median of its data set is suspicious.
TIMES_MEDIAN = 5.0

#: A missing organ is suspicious where more than this fraction of its data set's cases have it.
USUAL_FRACTION = 0.5


def summarise(cases: Sequence[Mapping[str, Any]], class_set: ClassSet) -> dict[str, Any]:
    """The report of cases.

    Besides the reasons of ``quality_check``, a case is suspicious if the volume of an organ (not of a lesion, for these
    vary) is more than five times the median of its data set, or 0 where more than half of the cases have it; or if its
    image is in another split too, under whatever name: data sets have many scans in common.

    Args:
        cases: for each ``dataset``, ``split``, ``image``, ``label`` and either ``error`` or ``classes``,
            ``reasons`` and ``fingerprint`` (see ``custom.tools.preparation.quality.quality_check``).
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

    duplicates = _duplicates(cases)
    for numbers in duplicates:
        for number in numbers:
            split = cases[number]["split"]
            others = [cases[other] for other in numbers if cases[other]["split"] != split]
            reasons[number] += [f"duplicate: the split {o['split']} has the same image, {o['image']}" for o in others]

    def listed(number: int, texts: Sequence[str]) -> dict[str, Any]:
        case = cases[number]
        return {key: case[key] for key in ("dataset", "split", "image", "label")} | {"reasons": list(texts)}

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
    facts: dict[str, Any] = {
        "labelled": len(labelled),
        "cases": len(present),
        "voxels": sum(item["voxels"] for item in labelled),
    }
    if present:
        facts |= {"median_ml": median(present), "least_ml": min(present), "most_ml": max(present)}
    return facts


def _odd_volumes(
    volumes: Mapping[str, Mapping[str, Any]], classes: Mapping[str, Mapping[str, Any]], class_set: ClassSet
) -> list[str]:
    if not any(facts["voxels"] for facts in volumes.values()):
        return []
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


def _duplicates(cases: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Groups of numbers of cases with the same image."""
    same: dict[str, list[int]] = defaultdict(list)
    for number, case in enumerate(cases):
        if "fingerprint" in case:
            same[case["fingerprint"]].append(number)
    return [numbers for numbers in same.values() if len(numbers) > 1]


def write_report(cases: Sequence[Mapping[str, Any]], class_set: ClassSet, folder: str | Path) -> dict[str, Any]:
    """Write ``preparation.json`` (see ``summarise``) and ``preparation.csv``, a line per case and labelled class."""
    report = summarise(cases, class_set)
    with atomic_write(Path(folder) / "preparation.json") as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with (
        atomic_write(Path(folder) / "preparation.csv") as path,
        path.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(("dataset", "split", "case", "class", "voxels", "ml"))
        for case in cases:
            for name, facts in case.get("classes", {}).items():
                row = (case["dataset"], case["split"], case["label"], name, facts["voxels"], f"{facts['ml']:.3f}")
                writer.writerow(row)
    return report
