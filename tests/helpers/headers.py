"""Headers of weights that differ in a few entries."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any


def changed_header(header: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other entries, in whichever of network settings and section ``volume`` they stand."""
    result = deepcopy(dict(header))
    for key, value in changes.items():
        next(result[part] for part in ("settings", "volume") if key in result[part])[key] = value
    return result
