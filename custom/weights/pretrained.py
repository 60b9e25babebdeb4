"""Where a training may start: weights of this project, or of a public code, for the same classes or for others."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from custom.networks import DescribedNetwork
from custom.text.bank import SAME_MODEL
from custom.weights.header import differing_settings, is_weights_file
from custom.weights.io import check_finite, find_state, listing, read_weights
from custom.weights.layouts import read_public_checkpoint

logger = logging.getLogger(__name__)


class _Network(DescribedNetwork, nn.Module):
    """Any network of this project."""


class _Source(NamedTuple):
    state: dict[str, torch.Tensor]
    kind: str
    sizes: Mapping[str, Any]
    header: Mapping[str, Any] | None


def check_source(pretrained: str | Path | None, weights: str | Path) -> None:
    """Raise ValueError for a training that would replace, after its first epochs, the weights that it starts from.

    They may be the file itself, or what an export made of it for MONAI's own tools.
    """
    replaced = [Path(path).resolve() for path in (weights, find_state(weights)) if path is not None]
    if pretrained is not None and Path(pretrained).resolve() in replaced:
        raise ValueError(f"This training would replace {pretrained}, which it starts from: pass another --ckpt_dir.")


def load_pretrained(
    network: _Network, path: str | Path | None, *, header: Mapping[str, Any], new_head: bool = False
) -> nn.Module:
    """Begin a training from trained or self-supervised weights, and return the network.

    Whatever has the name and shape of one of the network's tensors is taken, except:

    - text vectors (default prompt, text bank) stay this run's;
    - layers that read text (FiLM) are taken only from weights of this project whose header names the same text
      encoder, kind, dimension and variant;
    - the head is taken only where its classes agree; for others ``new_head`` must say that it may start fresh.

    What was taken and what not, and why, is logged.

    Args:
        network: as built for this run.
        path: a weights file of this project, or what ``read_public_checkpoint`` understands; None changes nothing.
        header: what ``describe_volume_weights`` returns for this run.
        new_head: start the head afresh even where the file has one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, more than tensors inside or none, an unknown layout, not every parameter of the
            image encoder there with the right shape, a head of other classes, or ``new_head`` without a path.
    """
    if path is None:
        if new_head:
            raise ValueError("--pretraining::new_head is for fine-tuning: pass --pretrained too, or leave it out.")
        return network
    path = Path(path)
    source = _read(path)
    own = network.state_dict()
    unfit = {name for name, tensor in source.state.items() if name in own and own[name].shape != tensor.shape}
    taken = {name: tensor for name, tensor in source.state.items() if name in own and name not in unfit}
    _check_encoder(path, network, source, taken)
    fresh_text = _why_fresh_text(network, source, header)
    fresh_head = _why_fresh_head(path, network, source, header, new_head)
    text, head = network.TEXT_LAYERS, network.HEAD
    left = network.TEXT_VECTORS + (text if fresh_text else ()) + (head if fresh_head else ())
    taken = {name: tensor for name, tensor in taken.items() if not name.startswith(left)}
    network.load_state_dict(taken, strict=False)
    fresh = sorted({".".join(name.split(".")[:2]) for name in own if name not in taken})
    logger.info("Started from %s (%s): %d of %d tensors taken.", path, source.kind, len(taken), len(own))
    logger.info("Fresh, or of this run: %s.", ", ".join(fresh) or "nothing")
    for what, layers, reason in (("layers that read text", text, fresh_text), ("head", head, fresh_head)):
        if reason and any(name.startswith(layers) for name in own):
            logger.info("Fresh %s: %s.", what, reason)
    shapes = sorted(f"{name} {tuple(source.state[name].shape)}" for name in unfit)
    logger.info("Of another shape: %s. Unused: %d.", listing(shapes) or "none", len(source.state.keys() - own.keys()))
    return network


def _read(path: Path) -> _Source:
    if is_weights_file(path):
        state, header = read_weights(path)
        check_finite(state, path)
        return _Source(state, "weights of this project", header["settings"], header)
    checkpoint = read_public_checkpoint(path)
    return _Source(checkpoint.state, f"layout {checkpoint.layout.name}", checkpoint.sizes, None)


def _check_encoder(path: Path, network: _Network, source: _Source, taken: Mapping[str, torch.Tensor]) -> None:
    unused = network.UNUSED or "\0"
    needed = {n: p for n, p in network.named_parameters() if n.startswith(network.ENCODER) and unused not in n}
    lacking = [name for name in needed if name not in taken]
    if not lacking:
        return
    sizes = ("feature_size", "window_size", "hidden_size", "positions")
    described = ", ".join(f"{key} {source.sizes[key]}" for key in sizes if key in source.sizes)
    raise ValueError(
        f"{path} does not hold this network's image encoder: {len(lacking)} of its parameters are missing or of "
        f"another shape, e.g. {lacking[0]} {tuple(needed[lacking[0]].shape)}. The file is {source.kind}, {described}. "
        f"{network.ENCODER_ADVICE}"
    )


def _why_fresh_text(network: _Network, source: _Source, header: Mapping[str, Any]) -> str:
    """Why layers that read text cannot be taken; empty where they can."""
    if not any(name.startswith(network.TEXT_LAYERS) for name in source.state):
        return "the file has none"
    if source.header is None:
        return (
            "the file does not say which text vectors it was trained with (scripts/convert_weights.py makes it say so)"
        )
    differing = differing_settings(source.header, header)
    for key in ("variant", "text_encoder", "text_kind", "text_dim"):
        if key in differing:
            there, here = differing[key]
            return f"{key} is {there!r} there and {here!r} here"
    held, volume = source.header["volume"], header["volume"]
    if network.reads_prompt and held["default_prompt"] == volume["default_prompt"]:
        stored, own = (state["default_text"].cpu().float() for state in (source.state, network.state_dict()))
        if stored.any() and own.any() and torch.cosine_similarity(stored, own).item() < SAME_MODEL:
            return f"another model stands behind text encoder {volume['text_encoder']!r}: its vectors differ"
    return ""


def _why_fresh_head(path: Path, network: _Network, source: _Source, header: Mapping[str, Any], new_head: bool) -> str:
    """Why the head cannot be taken; empty where it can."""
    own = network.state_dict()
    heads = [name for name in source.state if name.startswith(network.HEAD)]
    if not network.HEAD:
        if new_head:
            logger.warning(
                "--pretraining::new_head changes nothing: this network has no head; it predicts classes from "
                "their text."
            )
        return "this network has none"
    if not heads:
        return "the file has none"
    here = header["volume"]["classes"]
    there = None if source.header is None else source.header["volume"]["classes"]
    count = len(source.state[heads[0]])
    described = f"{count} classes that the file does not name" if there is None else _described(there)
    if new_head:
        return f"--pretraining::new_head; it had {described}, now {_described(here)}"
    same = all(name not in own or own[name].shape == source.state[name].shape for name in heads)
    if not same or there not in (None, here):
        raise ValueError(
            f"The head of {path} is for {described}, this run's for {_described(here)}. To fine-tune to other classes, "
            "pass --pretraining::new_head True: the head then starts afresh, and all else is taken. To keep the head, "
            "pass the class set of that training."
        )
    if there is None:
        logger.info("The file does not name its %d classes: they are taken to be this run's, in its order.", count)
    return ""


def _described(classes: list[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})"
