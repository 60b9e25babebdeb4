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
from monai.utils import CommonKeys
from rich.console import Console
from rich.table import Table

from custom.anatomy.class_set import ClassSet
from custom.evaluation.counting import ALL, VoxelCounts
from custom.evaluation.measuring import MEASURED, CaseMetrics
from custom.evaluation.scoring import Scores, score_datasets
from custom.utils.distributed import gather_cases
from custom.utils.files import atomic_write

TITLES = {
    "canonical": "Each class asked for alone, by its canonical sentence",
    "raw": "Each class asked for alone, in a user's words (random synonyms and templates)",
    "held out": "Each class asked for alone, in phrases and templates that training never draws",
    "dataset": "All classes together: the network does not read the prompt",
}


class EvaluationReport:
    """Handler that prints the tables of scores and writes them.

    - ``scores.json``, ``scores.csv``: per wording and data set, a row per class and one for all;
    - ``cases.csv``: a row per case and class, with the figures of the final answer, the worst first;
    - ``results.txt``: a line of Dice per data set and one for all, as the references print them;
    - ``counts.csv``: a row per volume, prompt and class, from which the figures on raw logits follow.

    Args:
        class_set: names of the classes.
        output_dir: where the files go.
        requests: what was asked, as in ``ValidationPromptsd``; of the "dataset" alone, leakage and wrong-prompt Dice
            do not
            apply (null in JSON, empty in CSV).
    """

    def __init__(self, class_set: ClassSet, output_dir: str | Path, *, requests: str = "per_class") -> None:
        self.class_set = class_set
        self.output_dir = Path(output_dir)
        self.requests = requests

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self.counts: list[VoxelCounts] = []
        self.answers: list[CaseMetrics] = []

    def _collect(self, engine: Engine) -> None:
        self.counts.extend(engine.state.output[CommonKeys.PRED])
        self.answers.extend(engine.state.output[MEASURED])

    def _report(self, engine: Engine) -> None:
        counts, answers = gather_cases(self.counts), gather_cases(self.answers)
        if idist.get_rank() > 0:
            return
        console = Console(width=max(Console().width, 130))
        records = []
        for wording in dict.fromkeys(count.prompt_text for count in counts):
            asked = [count for count in counts if count.prompt_text == wording]
            title = TITLES[wording] if self.requests == "per_class" else TITLES[self.requests]
            for scores in score_datasets(asked, answers if wording == "canonical" else [], self.class_set):
                of = "" if scores.dataset == ALL else f"Data set {scores.dataset}: "
                console.print(score_table(scores, title=of + title))
                figures = [json_numbers(asdict(row)) for row in (*scores.rows, scores.overall)]
                records += [{"prompt_text": wording, "dataset": scores.dataset} | row for row in figures]
        names = self.class_set
        voxels = [
            asdict(c) | {"named": " + ".join(names[i].name for i in c.named), "label": names[c.label].name}
            for c in counts
        ]
        files = {
            "scores.json": json.dumps(records, indent=2) + "\n",
            "scores.csv": as_csv(records),
            "cases.csv": as_csv(case_rows(answers, names)),
            "results.txt": reference_lines(answers, names),
            "counts.csv": as_csv(voxels),
        }
        for name, text in files.items():
            write_text(self.output_dir / name, text)
        console.print(f"Written: {self.output_dir}/{', '.join(files)}", soft_wrap=True)


def score_table(scores: Scores, *, title: str) -> Table:
    """The scores as a table for the terminal."""
    table = Table(title=title, caption="leakage and wrong-prompt Dice should be near 0; n/a: not applicable")
    table.add_column("class")
    measured = not math.isnan(scores.overall.final_dice)
    for heading in (
        *("cases", "Dice", "Dice (data set sentence)", "wrong-prompt Dice", "leakage", "false positive mL"),
        *(("Dice (final)", "NSD", "HD95 mm", "missed") if measured else ()),
    ):
        table.add_column(heading, justify="right")
    for row in [*scores.rows, scores.overall]:
        if row is scores.overall:
            table.add_section()
        figures: tuple[float, ...] = (
            row.dice,
            row.dice_dataset,
            row.wrong_prompt_dice,
            row.leakage,
            row.false_positive_ml,
        )
        figures += (row.final_dice, row.nsd, row.hd95) if measured else ()
        words = ["n/a" if math.isnan(figure) else f"{figure:.3f}" for figure in figures]
        table.add_row(row.name, str(row.cases), *words, *([str(row.missed)] if measured else []))
    return table


def case_rows(answers: Sequence[CaseMetrics], class_set: ClassSet) -> list[dict[str, Any]]:
    """A row per case and class: by Dice, the worst first; then the classes that are not there, most predicted first."""
    ranked = sorted(answers, key=lambda a: (math.isnan(a.dice), a.dice if a.truth_ml else -a.predicted_ml))
    rows = []
    for answer in ranked:
        figures = json_numbers(asdict(answer))
        label = figures.pop("label")
        rows.append({"case": figures.pop("case"), "dataset": figures.pop("dataset"), "class": class_set[label].name})
        rows[-1] |= {name: value if value is None else round(value, 4) for name, value in figures.items()}
    return rows


def reference_lines(answers: Sequence[CaseMetrics], class_set: ClassSet) -> str:
    """Mean Dice per class as the references print it: ``Task<key>| Liver: 0.9706, Liver Tumor: 0.6688, ``."""
    lines = []
    datasets = sorted({answer.dataset for answer in answers})
    for heading, chosen in [*((f"Task{name}| ", {name}) for name in datasets), ("Average | ", set(datasets))]:
        line = heading
        for item in class_set:
            dice = [a.dice for a in answers if a.label == item.index and a.truth_ml and a.dataset in chosen]
            line += f"{item.name.title()}: {mean(dice):.4f}, " if dice else ""
        lines.append(line)
    return "\n".join(lines) + "\n"


def json_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record with None for NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records of the same keys as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a file, whole."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
