"""Tables of an evaluation: on screen, as JSON and CSV, and as the references print them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EpochOutputStore
from monai.utils import CommonKeys
from rich.console import Console
from rich.table import Column, Table

from custom.anatomy.class_set import ClassSet
from custom.evaluation.scoring import Score, score_datasets
from custom.evaluation.surface_metrics import CASE_METRICS, CaseMetrics
from custom.evaluation.voxel_counts import ALL, VoxelCounts
from custom.utils.distributed import gather_cases
from custom.utils.files import atomic_write

TITLES = {
    "canonical": "Each class requested alone, by its canonical sentence",
    "raw": "Each class requested alone, in a user's words (random synonyms and templates)",
    "held out": "Each class requested alone, in phrases and templates that training never draws",
    "dataset": "All classes together: the network does not read the prompt",
}

#: Columns of the table on screen, by field of ``Score``: of the raw logits, and of the final masks.
RAW_COLUMNS = {
    "dice": "Dice",
    "dice_dataset": "Dice (data set sentence)",
    "wrong_prompt_dice": "wrong-prompt Dice",
    "leakage": "leakage",
    "false_positive_ml": "false positive mL",
}
FINAL_COLUMNS = {"final_dice": "Dice (final)", "nsd": "NSD", "hd95": "HD95 mm", "missed": "missed"}

#: Columns of ``cases.csv`` beside case, data set and class: fields of ``CaseMetrics``.
CASE_COLUMNS = ("dice", "raw_dice", "nsd", "hd95", "truth_ml", "predicted_ml")


class EvaluationReport:
    """Handler that prints the tables of scores and writes them.

    - ``scores.json``, ``scores.csv``: per wording and data set, a row per class and one for all;
    - ``cases.csv``: a row per case and class, with the metrics of the final mask: by Dice, the worst first; then the
      absent classes, most predicted first;
    - ``results.txt``: a line of Dice per data set and one for all, as the references print them;
    - ``counts.csv``: a row per volume, prompt and class, from which the figures on raw logits follow.

    Args:
        class_set: names of the classes.
        output_dir: where the files go.
        requests: as in ``ValidationPromptsd``. With "dataset" leakage and wrong-prompt Dice do not apply (null in JSON,
            empty in CSV).
    """

    def __init__(self, class_set: ClassSet, output_dir: str | Path, *, requests: str = "per_class") -> None:
        self.class_set = class_set
        self.output_dir = Path(output_dir)
        self.requests = requests

    def attach(self, engine: Engine) -> None:
        store = EpochOutputStore(lambda output: (output[CommonKeys.PRED], output[CASE_METRICS]))
        store.attach(engine)
        engine.add_event_handler(Events.COMPLETED, lambda: self._report(store.data))

    def _report(self, results: Sequence[tuple[list[VoxelCounts], list[CaseMetrics]]]) -> None:
        counts = gather_cases([count for own, _ in results for count in own])
        metrics = gather_cases([entry for _, own in results for entry in own])
        if idist.get_rank() > 0:
            return
        names = self.class_set.names
        console = Console(width=max(Console().width, 130))
        records = []
        for wording in dict.fromkeys(count.prompt_text for count in counts):
            own = [count for count in counts if count.prompt_text == wording]
            title = TITLES[wording if self.requests == "per_class" else self.requests]
            scores = score_datasets(own, metrics if wording == "canonical" else [], self.class_set)
            for dataset, rows in scores.items():
                console.print(_score_table(rows, title if dataset == ALL else f"Data set {dataset}: {title}"))
                records += [{"prompt_text": wording, "dataset": dataset} | _json_numbers(asdict(row)) for row in rows]
        cases = [
            {"case": entry.case, "dataset": entry.dataset, "class": names[entry.label - 1]}
            | _json_numbers({name: round(getattr(entry, name), 4) for name in CASE_COLUMNS})
            for entry in sorted(metrics, key=lambda m: (math.isnan(m.dice), m.dice if m.truth_ml else -m.predicted_ml))
        ]
        voxels = [
            asdict(count)
            | {"named": " + ".join(names[label - 1] for label in count.named), "label": names[count.label - 1]}
            for count in counts
        ]
        files = {
            "scores.json": json.dumps(records, indent=2) + "\n",
            "scores.csv": as_csv(records),
            "cases.csv": as_csv(cases),
            "results.txt": reference_lines(metrics, self.class_set),
            "counts.csv": as_csv(voxels),
        }
        for name, text in files.items():
            write_text(self.output_dir / name, text)
        console.print(f"Written: {self.output_dir}/{', '.join(files)}", soft_wrap=True)


def _score_table(rows: Sequence[Score], title: str) -> Table:
    columns = RAW_COLUMNS if math.isnan(rows[-1].final_dice) else RAW_COLUMNS | FINAL_COLUMNS
    headings = [Column(heading, justify="right") for heading in ("cases", *columns.values())]
    caption = "leakage and wrong-prompt Dice should be near 0; n/a: not applicable"
    table = Table("class", *headings, title=title, caption=caption)
    for row in rows:
        if row is rows[-1]:
            table.add_section()
        table.add_row(row.name, str(row.cases), *(_cell(getattr(row, field)) for field in columns))
    return table


def _cell(figure: float) -> str:
    if isinstance(figure, int):
        return str(figure)
    return "n/a" if math.isnan(figure) else f"{figure:.3f}"


def _json_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record with None for NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}


def reference_lines(metrics: Sequence[CaseMetrics], class_set: ClassSet) -> str:
    """Mean Dice per class as the references print it: ``Task<key>| Liver: 0.9706, Liver Tumor: 0.6688, ``."""
    lines = []
    datasets = sorted({entry.dataset for entry in metrics})
    for heading, chosen in [*((f"Task{name}| ", {name}) for name in datasets), ("Average | ", set(datasets))]:
        line = heading
        for item in class_set:
            dice = [m.dice for m in metrics if m.label == item.index and m.truth_ml and m.dataset in chosen]
            line += f"{item.name.title()}: {mean(dice):.4f}, " if dice else ""
        lines.append(line)
    return "\n".join(lines) + "\n"


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
