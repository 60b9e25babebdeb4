"""What a bundle needs to run: where it lies, which overrides it takes, what is refused before any work.

``root`` finds the bundle's folder, ``overrides`` checks the command line (every config imports it first), ``checks``
are entries of a config's ``initialize`` and ``checks``. To add a check: a function in ``checks`` that raises a
``ValueError`` with rule, value and fix, listed below, and its entry in the configs. To rename a setting: its old name
in ``overrides.RENAMED``.
"""

from custom.bundle.checks import check_crops, check_device, check_prompt_policy
from custom.bundle.root import find_bundle_root

__all__ = ["check_crops", "check_device", "check_prompt_policy", "find_bundle_root"]
