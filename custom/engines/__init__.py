"""An inference run over many images: requests, what is done already, one bad image, the report.

``requests`` makes a ``Request`` of each image and prompt and the data set of them, ``resume`` leaves out what an
earlier run has done, ``evaluator`` goes on after an image that fails, ``report`` writes the status of each request. To
add what decides a result: its entry in ``settings`` of ``settings_digest`` in ``inference.json``, so that results of
other settings are told apart.
"""

from custom.engines.evaluator import FaultTolerantEvaluator
from custom.engines.report import RunReport
from custom.engines.requests import (
    Request,
    RequestDataset,
    check_requests,
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
    "check_requests",
    "list_requests",
    "pending_requests",
    "prepare_request",
    "process_requests",
    "settings_digest",
    "single_item",
]
