"""What a bundle needs to run: where it lies, which overrides it takes, what is refused before any work."""

from custom.bundle.checks import check_crops, check_device, check_prompt_policy
from custom.bundle.root import find_bundle_root

__all__ = ["check_crops", "check_device", "check_prompt_policy", "find_bundle_root"]
