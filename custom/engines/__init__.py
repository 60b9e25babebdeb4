"""An inference run: which prompts of which images, what is done already, one bad image, the report."""

from custom.engines.evaluator import FaultTolerantEvaluator
from custom.engines.report import RunReport
from custom.engines.requests import RequestDataset, list_requests
from custom.engines.resume import pending_requests, settings_digest

__all__ = [
    "FaultTolerantEvaluator",
    "RequestDataset",
    "RunReport",
    "list_requests",
    "pending_requests",
    "settings_digest",
]
