"""What became of every request of a run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from custom.engines.resume import plain_text
from custom.utils.files import atomic_write

logger = logging.getLogger(__name__)

#: What became of a question.
STATUSES = ("done", "skipped", "failed", "pending")


class RunReport:
    """What became of every question of a run, in ``<output_dir>/report.json``, where there are several.

    Several processes write one report.

    Args:
        requests: those of this process, answered before or not.
        output_dir: where answers are.
    """

    def __init__(self, requests: Sequence[Mapping[str, Any]], output_dir: str | Path) -> None:
        self.requests = requests
        self.output_dir = Path(output_dir)

    def written(self, request: Mapping[str, Any]) -> tuple[int, int] | None:
        """What tells the answer to a question from one that is written later; None where there is none."""
        summary = self.output_dir / request["output_name"] / "summary.json"
        return (summary.stat().st_ino, summary.stat().st_mtime_ns) if summary.is_file() else None

    def rows(self, asked: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What became of each question of this process; ``asked`` is what ``write`` takes."""
        before = {"status": "skipped", "seconds": None, "reason": None}
        return [
            {"image": request["image"], "prompt": plain_text(request["prompt"]), "output_name": request["output_name"]}
            | dict(asked.get(request["output_name"], before))
            for request in self.requests
        ]

    def write(self, asked: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the report, once all processes have come here.

        Args:
            asked: by ``output_name``, the ``status``, ``seconds`` and ``reason`` of the questions that had to be asked.
        """
        gathered: Any = idist.all_gather(self.rows(asked))
        rows = [row for rows in gathered for row in rows]
        rows.sort(key=lambda row: str(row["output_name"]))
        if idist.get_rank() > 0 or len(rows) < 2:
            return
        counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
        with atomic_write(self.output_dir / "report.json") as temporary:
            temporary.write_text(json.dumps({"counts": counts, "requests": rows}, indent=2) + "\n", encoding="utf-8")
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        logger.info("%d requests: %s. Written: %s.", len(rows), told, self.output_dir / "report.json")
