"""Values of settings that would fail later, or not mean what they say, refused with the rule before any work."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from custom.datasets.labels import UNDECLARED
from custom.text.no_text import NoText


def check_device(device: str | torch.device) -> None:
    """Refuse, with a ValueError, a device that this machine does not have."""
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            "--device must be a device of this machine, such as cpu, or cuda:0 where torch sees an NVIDIA GPU, not "
            f"{str(device)!r} ({str(error).splitlines()[0]}). Leave it out to take what is there."
        ) from error


def check_prompt_policy(policy: str, *, bank: Any) -> None:
    """Refuse, with a ValueError, sampled prompts for a network that does not read them (``bank`` is ``NoText``)."""
    if policy == "sampled" and isinstance(bank, NoText):
        raise ValueError(
            "--train::prompt_policy must be 'dataset' here, not 'sampled': this network does not read the prompt, "
            "and would learn that structures which it sees are not there."
        )


def check_crops(
    cases: Sequence[Mapping[str, Any]], *, crop_datasets: Sequence[str], crop_ratios: Sequence[float]
) -> None:
    """Refuse, with a ValueError, ratios that leave out label values, around which no crop would ever be centred.

    Args:
        cases: of the training, with ``dataset`` and ``value_table``.
        crop_datasets: keys or patterns of the data sets whose crops are centred by ratios.
        crop_ratios: of background and each value; none for all alike.
    """
    for case in cases if crop_ratios else ():
        highest = int((case["value_table"][:, 0] != UNDECLARED).nonzero().max())
        if highest >= len(crop_ratios) and any(fnmatchcase(case["dataset"], pattern) for pattern in crop_datasets):
            raise ValueError(
                "--train::crop_ratios must have a number for the background and for each label value of the data "
                f"sets in --train::crop_datasets. Data set {case['dataset']!r} has values up to {highest}, right and "
                f"left told apart, and there are {len(crop_ratios)} numbers, {list(crop_ratios)}. Give {highest + 1}, "
                'or "[]" for all values alike.'
            )
