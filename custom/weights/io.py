"""Weights files: safetensors with a header that says what they are; loading is strict."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom.utils.files import read_safetensors, save_safetensors
from custom.weights.header import (
    Header,
    differing_settings,
    mismatch,
    parse_header,
    reading,
    trained_on,
    write_metadata,
)

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


def save_weights(
    network: nn.Module, path: str | Path, *, header: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write a network's parameters and buffers, under their own names, in one step, to a .safetensors file.

    ``provenance`` says how the weights came to be (versions, epoch, scores): loading compares the header without it.
    """
    save_safetensors(network.state_dict(), path, metadata=write_metadata(header, provenance))


def read_weights(path: str | Path) -> tuple[State, Header]:
    """Tensors of a weights file by name, and its header; raises as ``read_header`` does.

    Both are of one file, even if a training replaces it meanwhile.
    """
    with reading(path):
        state, metadata = read_safetensors(path)
    return state, parse_header(metadata, path)


def load_weights(network: nn.Module, path: str | Path, *, header: Mapping[str, Any]) -> tuple[State, Header]:
    """Load a weights file into a network of this run's ``header``, strictly, and return what ``read_weights`` does.

    Half precision is widened to the network's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, header, tensor name or shape; the message names the setting.
    """
    state, held = read_weights(path)
    if differing := differing_settings(held, header):
        raise mismatch(path, differing)
    check_finite(state, path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"The weights {path} belong to another network than their header says: {error}") from error
    logger.info("Weights %s were trained on %s.", path, trained_on(held))
    return state, held


def check_finite(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Raise ValueError where tensors of a file, by their names there, hold NaN or infinity."""
    if unfit := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(unfit)} tensors: {listing(unfit)}. The training that wrote it "
            "failed: use an earlier checkpoint, or other weights."
        )


def listing(names: Sequence[str]) -> str:
    """The first ten names, and how many there are besides."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


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
