"""What became of every request of a run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.engines.resume import plain_text
from custom.utils.distributed import gather, is_first
from custom.utils.files import whole_file

logger = logging.getLogger(__name__)

#: What became of a question.
STATUSES = ("answered", "answered before", "not segmented", "not asked")


class RunReport:
    """What became of every question of a run, in ``<output_dir>/report.json``, where there are several.

    Several processes write one report.

    Args:
        questions: those of this process, answered before or not.
        output_dir: where answers are.
    """

    def __init__(self, questions: Sequence[Mapping[str, Any]], output_dir: str | Path) -> None:
        self.questions = questions
        self.output_dir = Path(output_dir)

    def written(self, question: Mapping[str, Any]) -> tuple[int, int] | None:
        """What tells the answer to a question from one that is written later; None where there is none."""
        summary = self.output_dir / question["answer"] / "summary.json"
        return (summary.stat().st_ino, summary.stat().st_mtime_ns) if summary.is_file() else None

    def rows(self, asked: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What became of each question of this process; ``asked`` is what ``write`` takes."""
        before = {"status": "answered before", "seconds": None, "reason": None}
        return [
            {"image": question["image"], "prompt": plain_text(question["prompt"]), "answer": question["answer"]}
            | dict(asked.get(question["answer"], before))
            for question in self.questions
        ]

    def write(self, asked: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the report, once all processes have come here.

        Args:
            asked: by ``answer``, the ``status``, ``seconds`` and ``reason`` of the questions that had to be asked.
        """
        rows = sorted((row for rows in gather(self.rows(asked)) for row in rows), key=lambda row: str(row["answer"]))
        if not is_first() or len(rows) < 2:
            return
        counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
        with whole_file(self.output_dir / "report.json") as temporary:
            temporary.write_text(json.dumps({"counts": counts, "questions": rows}, indent=2) + "\n", encoding="utf-8")
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        logger.info("%d questions: %s. Written: %s.", len(rows), told, self.output_dir / "report.json")
