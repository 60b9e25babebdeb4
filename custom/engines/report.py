"""The status of every request of a run."""

import json
import logging
import time
from collections.abc import Sequence
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

    Several processes write one report. ``rows`` has the row of each request of this process by ``output_name``.

    Args:
        requests: those of this process, skipped ones included.
        output_dir: where the result folders are.
    """

    def __init__(self, requests: Sequence[Request], output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.rows: dict[str, dict[str, Any]] = {}
        for request in requests:
            row = {"image": request.image, "prompt": request.prompt.text, "output_name": request.output_name}
            self.rows[request.output_name] = row | {"status": "skipped", "seconds": None, "reason": None}

    def start(self, requests: Sequence[Request]) -> None:
        """These were not skipped, and the first of them begins."""
        for request in requests:
            self.rows[request.output_name] |= {"status": "pending", "seconds": None, "reason": None}
        self.since = time.monotonic()

    def note(self, request: Request, status: str, reason: str | None = None) -> None:
        """Note a status, and how long the request took since the one before."""
        now = time.monotonic()
        self.rows[request.output_name] |= {"status": status, "seconds": round(now - self.since, 2), "reason": reason}
        self.since = now

    def written(self, request: Request) -> tuple[int, int] | None:
        """What tells a request's result from one written later; None where there is none."""
        summary = self.output_dir / request.output_name / "summary.json"
        return (summary.stat().st_ino, summary.stat().st_mtime_ns) if summary.is_file() else None

    def write(self) -> None:
        """Write the report, once all processes have come here."""
        gathered: Any = idist.all_gather(list(self.rows.values()))
        rows = sorted((row for rows in gathered for row in rows), key=lambda row: str(row["output_name"]))
        if idist.get_rank() > 0 or len(rows) < 2:
            return
        path = self.output_dir / "report.json"
        counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"counts": counts, "requests": rows}, indent=2) + "\n", encoding="utf-8")
        counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        logger.info("%d requests: %s. Written: %s.", len(rows), counted, path)
