"""The status of every request of a run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from custom.engines.requests import Request
from custom.utils.files import atomic_write

logger = logging.getLogger(__name__)

#: ``done`` by this run, ``skipped`` because an earlier run did it, ``failed``, or ``pending``: the run ended before it.
STATUSES = ("done", "skipped", "failed", "pending")


class RunReport:
    """Status of every request of a run, in ``<output_dir>/report.json`` where there are several requests.

    Several processes write one report. The statuses that it takes are, by ``output_name``, the ``status``, ``seconds``
    and ``reason`` of the requests that were not skipped.

    Args:
        requests: those of this process, skipped ones included.
        output_dir: where the result folders are.
    """

    def __init__(self, requests: Sequence[Request], output_dir: str | Path) -> None:
        self.requests = requests
        self.output_dir = Path(output_dir)

    def written(self, request: Request) -> tuple[int, int] | None:
        """What tells a request's result from one written later; None where there is none."""
        summary = self.output_dir / request.output_name / "summary.json"
        return (summary.stat().st_ino, summary.stat().st_mtime_ns) if summary.is_file() else None

    def rows(self, statuses: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A row for each request of this process."""
        skipped = {"status": "skipped", "seconds": None, "reason": None}
        return [
            {"image": request.image, "prompt": request.prompt.text, "output_name": request.output_name}
            | dict(statuses.get(request.output_name, skipped))
            for request in self.requests
        ]

    def write(self, statuses: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the report, once all processes have come here."""
        gathered: Any = idist.all_gather(self.rows(statuses))
        rows = sorted((row for rows in gathered for row in rows), key=lambda row: str(row["output_name"]))
        if idist.get_rank() > 0 or len(rows) < 2:
            return
        path = self.output_dir / "report.json"
        counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"counts": counts, "requests": rows}, indent=2) + "\n", encoding="utf-8")
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        logger.info("%d requests: %s. Written: %s.", len(rows), counted, path)
