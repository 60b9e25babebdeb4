"""An inference run: which prompts of which images, which are done already, one bad image, the report."""

from custom.engines.evaluator import FaultTolerantEvaluator
from custom.engines.report import RunReport
from custom.engines.requests import (
    Request,
    RequestDataset,
    list_requests,
    prepare_request,
    process_requests,
    single_item,
)
from custom.engines.resume import pending_requests, settings_digest

__all__ = [
    "FaultTolerantEvaluator",
    "Request",
    "RequestDataset",
    "RunReport",
    "list_requests",
    "pending_requests",
    "prepare_request",
    "process_requests",
    "settings_digest",
    "single_item",
]
