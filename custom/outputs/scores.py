"""Tables of an evaluation: on screen, and as JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from rich.console import Console
from rich.table import Table

from custom.anatomy import ClassSet
from custom.distributed import gather_cases, is_first
from custom.evaluation import Count, Score, score
from custom.files import whole_file

TITLES = {
    "canonical": "Each class asked for alone, by its canonical sentence",
    "raw": "Each class asked for alone, in a user's words (random synonyms and templates)",
    "data set": "All classes together: the network does not read the prompt",
}


class EvaluationReport:
    """Handler that prints the table of scores and writes ``scores.json``, ``scores.csv`` and ``counts.csv``.

    ``scores.*`` have, per wording, a row per class and one for all; ``counts.csv`` a row per volume, prompt and class,
    from which every score follows.

    Args:
        class_set: names of the classes.
        output_dir: where the files go.
        questions: what was asked, as in ``ListPromptsd``; of the "data set" alone, leakage and wrong-prompt Dice do not
            apply (null in JSON, empty in CSV).
    """

    def __init__(self, class_set: ClassSet, output_dir: str | Path, *, questions: str = "each class") -> None:
        self.class_set = class_set
        self.output_dir = Path(output_dir)
        self.questions = questions

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self.counts: list[Count] = []

    def _collect(self, engine: Engine) -> None:
        self.counts.extend(engine.state.output[CommonKeys.PRED])

    def _report(self, engine: Engine) -> None:
        self.counts = gather_cases(self.counts, case=lambda count: count.case)
        if not is_first():
            return
        console = Console(width=max(Console().width, 100))
        records = []
        for wording in dict.fromkeys(count.prompt_text for count in self.counts):
            rows, overall = score([count for count in self.counts if count.prompt_text == wording], self.class_set)
            title = TITLES[wording] if self.questions == "each class" else TITLES[self.questions]
            console.print(score_table(rows, overall, title=title))
            figures = [{k: _json_number(v) for k, v in asdict(row).items()} for row in [*rows, overall]]
            records += [{"prompt_text": wording} | row for row in figures]
        _write(self.output_dir / "scores.json", json.dumps(records, indent=2) + "\n")
        _write(self.output_dir / "scores.csv", _as_csv(records))
        names = self.class_set
        counts = [
            asdict(c) | {"named": " + ".join(names[i].name for i in c.named), "label": names[c.label].name}
            for c in self.counts
        ]
        _write(self.output_dir / "counts.csv", _as_csv(counts))
        console.print(f"Written: {self.output_dir}/scores.json, scores.csv, counts.csv", soft_wrap=True)


def score_table(rows: Sequence[Score], overall: Score, *, title: str) -> Table:
    """The scores as a table for the terminal."""
    table = Table(title=title, caption="leakage and wrong-prompt Dice should be near 0; n/a: not applicable")
    table.add_column("class")
    for title in ("cases", "Dice", "Dice (data set sentence)", "wrong-prompt Dice", "leakage", "false positive mL"):
        table.add_column(title, justify="right")
    for row in [*rows, overall]:
        if row is overall:
            table.add_section()
        figures = (row.dice, row.dice_dataset, row.wrong_prompt_dice, row.leakage, row.false_positive_ml)
        table.add_row(row.name, str(row.cases), *("n/a" if math.isnan(f) else f"{f:.3f}" for f in figures))
    return table


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _as_csv(records: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
