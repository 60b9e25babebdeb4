"""Values of labels, and targets with unknown channels."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from custom.datasets.labels import UNDECLARED, UNKNOWN, Sides


class LabelsToTargetd(MapTransform):
    """Expand a compact label (1, H, W, D) of raw values into a target (K, H, W, D) int8 of 0, 1 and UNKNOWN.

    Put it after the random crops, as the target is K times as large. The item's ``value_table`` (256, K) is that of
    ``custom.datasets.labels``.

    Raises:
        ValueError: a raw value that the data set does not declare.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        table: torch.Tensor = result["value_table"]
        for key in self.key_iterator(result):
            label: torch.Tensor = convert_to_tensor(result[key], track_meta=False)[0]
            meta = getattr(result[key], "meta", {})
            check_label(label.numpy(), table, {}, meta.get("filename_or_obj", "the label"))
            target = table[label.long()].movedim(-1, 0).contiguous()
            result[key] = MetaTensor(target, meta=meta) if isinstance(result[key], MetaTensor) else target
        return result


class ClearUnlabelledd(MapTransform):
    """Set raw values without a class to 0, so that crops are not centred on structures outside the class set.

    For a compact label (1, H, W, D) and the item's ``value_table`` (256, K).
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        table: torch.Tensor = result["value_table"]
        background = (table == table[0]).all(1).nonzero().flatten()
        for key in self.key_iterator(result):
            label = result[key]
            result[key] = torch.where(torch.isin(label, background.to(label.dtype)), 0, label)
        return result


def labelled_classes(target: torch.Tensor) -> list[int]:
    """1-based classes whose channel of ``target`` (K, H, W, D) is known."""
    return [channel + 1 for channel, value in enumerate(target[:, 0, 0, 0].tolist()) if value != UNKNOWN]


def check_label(values: npt.NDArray[Any], table: torch.Tensor, sides: Sides, source: str) -> None:
    """Refuse raw values that the ``value_table`` does not declare, and those of the left parts of ``sides``."""
    declared = (table[:, 0] != UNDECLARED).numpy()
    declared[[left for pairs in sides.values() for _, left in pairs.values()]] = False
    bytes_only = (values >= 0) & (values < len(declared)) & (values == np.floor(values))
    found = np.unique(values[~bytes_only]) if not bytes_only.all() else np.unique(values.astype(np.uint8))
    wrong = [f"{value:.9g}" for value in found.tolist() if not bytes_only.all() or not declared[value]]
    if wrong:
        raise ValueError(
            f"{source}: label values must be among those that dataset.json declares "
            f"({', '.join(map(str, declared.nonzero()[0]))}); found {', '.join(wrong[:10])}"
            f'{", ..." * (len(wrong) > 10)}. Declare them under "labels" ([] means background), or correct the label.'
        )
