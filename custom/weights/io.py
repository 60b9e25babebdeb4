"""Weights files: safetensors with a header that says what they are; loading is strict."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from custom.utils.files import save_safetensors
from custom.weights.header import Header, differing_settings, mismatch, read_header, write_metadata

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


def save_weights(
    network: nn.Module, path: str | Path, *, header: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a network's parameters and buffers, under their own names, in one step.

    Args:
        network: whose state is stored.
        path: a .safetensors file.
        header: see ``custom.weights.header``; compared when loading.
        provenance: how the weights came to be (versions, epoch, scores); not compared.
    """
    save_safetensors(network.state_dict(), path, metadata=write_metadata(header, provenance))


def read_weights(path: str | Path) -> tuple[State, Header]:
    """Tensors of a weights file by name, and its header; raises as ``read_header`` does."""
    header = read_header(path)
    return load_file(str(path)), header


def load_weights(network: nn.Module, path: str | Path, *, header: Mapping[str, Any]) -> tuple[State, Header]:
    """Load ``path`` into ``network``, strictly; half precision is widened to the network's.

    Args:
        network: built with the settings that ``header`` states.
        path: a weights file.
        header: of this run.

    Returns:
        What ``read_weights`` does.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, header, tensor name or shape; the message names the setting.
    """
    held = read_header(path)
    if differing := differing_settings(held, header):
        raise mismatch(path, differing)
    state, _ = read_weights(path)
    if unfit := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"The weights {path} hold NaN or infinity, e.g. in {unfit[0]}: the training that wrote them failed. Use "
            "other weights."
        )
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"The weights {path} belong to another network than their header says: {error}") from error
    if described := held["provenance"].get("data", {}).get("description"):
        logger.info("Weights %s were trained on: %s.", path, described)
    return state, held


def differing_tensors(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names, in order, of what only one of two states has, or has otherwise."""
    return sorted(n for n in {**one, **other} if n not in one or n not in other or not one[n].equal(other[n]))


def find_state(weights: str | Path) -> Path | None:
    """``model.pt`` beside a weights file that an export made of it; any other of that name is a user's own."""
    path = Path(weights).with_suffix(".pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return None if differing_tensors(read_weights(weights)[0], state) else path
    except Exception:  # one of them is not there, or is something else
        return None
