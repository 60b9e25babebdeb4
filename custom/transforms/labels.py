"""Targets with unknown channels."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from custom.datasets.labels import UNDECLARED, UNKNOWN


class LabelsToTargetd(MapTransform):
    """Expand a compact label (1, H, W, D) of raw values into a target (K, H, W, D) int8 of 0, 1 and UNKNOWN.

    Put it after the random crops, as the target is K times as large. The item's ``value_table`` (256, K) is that of
    ``custom.datasets.value_table``.

    Raises:
        ValueError: a raw value that the data set does not declare.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        table: torch.Tensor = result["value_table"]
        for key in self.key_iterator(result):
            label = torch.as_tensor(result[key])
            meta = label.meta if isinstance(label, MetaTensor) else {}
            plain = label.as_tensor() if isinstance(label, MetaTensor) else label
            values = plain[0].long()
            wrong = [v for v in torch.unique(values).tolist() if not 0 <= v < len(table) or table[v, 0] == UNDECLARED]
            if wrong or (plain[0] != values).any():
                raise ValueError(
                    f"{meta.get('filename_or_obj', 'the label')}: label values must be among those that dataset.json "
                    f"declares; found {wrong or 'fractions'}."
                )
            target = table[values].movedim(-1, 0).contiguous()
            result[key] = MetaTensor(target, meta=meta) if isinstance(label, MetaTensor) else target
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
