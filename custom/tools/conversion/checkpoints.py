"""Checkpoints of public codes become weights files of this project."""

import csv
import json
import logging
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from custom.anatomy.class_set import ClassSet
from custom.networks.sizes import check_roi_size, check_sizes
from custom.text.bank import MissingPromptError, PromptBank
from custom.text.encoders import TextEncoderUnavailable, check_dimension, create_text_encoder
from custom.text.no_text import NoText
from custom.utils.files import atomic_write, content_digest, save_safetensors
from custom.weights.header import PRETRAINED_FORMAT, is_weights_file, run_provenance
from custom.weights.io import listing, save_weights
from custom.weights.layouts import PublicCheckpoint, read_public_checkpoint
from custom.weights.volume import describe_volume_weights

logger = logging.getLogger(__name__)


class KeyMapping(NamedTuple):
    """What became of one tensor: ``key`` is the file's name, or ours where the file lacks it."""

    key: str
    mapping: str
    ours: str
    shape: str
    reason: str


class Text(NamedTuple):
    """Which text vectors a network was trained with, and where the default prompt's may be had."""

    encoder: str
    kind: str | None
    model: str | None = None
    bank: str | None = None


def convert_network(
    source: str | Path,
    output: str | Path,
    *,
    class_set: ClassSet,
    text: Text,
    trained_classes: Sequence[str],
    family: str | None = None,
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    max_classes_per_prompt: int = 15,
) -> list[KeyMapping]:
    """Write a checkpoint of a public code as weights of this project.

    The network is built and loaded strictly before anything is written. Swin self-supervised encoders become a file
    for ``--pretrained``. ``<output>.keys.csv`` says what became of each key.

    Args:
        source: as ``family``, see ``custom.weights.layouts.read_public_checkpoint``.
        class_set: the classes of the output channels, in order.
        text: the vectors that the network was trained with; its kind must be stated for networks that read text.
        trained_classes: names of the classes that the training data labelled.
        spacing: working resolution (H, W, D) in mm; None means the class set's.
        roi_size: training window (H, W, D) in voxels; None means 96, and UNETR's own where that is a cube.
        max_classes_per_prompt: most classes that one sentence may name.

    Raises:
        FileNotFoundError: no such source, or no such text bank.
        ValueError: whatever ``read_public_checkpoint`` refuses; a text kind that is missing or of no use; other
            classes; tensors that are missing, of another shape or unexplained.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output must be a .safetensors file, not {output}.")
    if Path(output).exists():
        raise ValueError(f"{output} exists already: give another --output, or remove it.")
    if is_weights_file(source):
        raise ValueError(f"{source} is a weights file of this project already: its bundle takes it as is (--weights).")
    if max_classes_per_prompt < 1:
        raise ValueError(f"max_classes must be at least 1, not {max_classes_per_prompt}.")
    checkpoint = read_public_checkpoint(source, family)
    _check_text(checkpoint, text)
    _check_classes(checkpoint, class_set)
    spacing = class_set.spacing if spacing is None else spacing
    if roi_size is not None:
        check_roi_size(roi_size)
    try:
        settings, window = checkpoint.network.complete_settings(checkpoint.sizes, roi_size)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path} {error}") from error
    check_sizes(roi_size=window, spacing=spacing)
    network: Any = checkpoint.network(in_channels=1, out_channels=checkpoint.sizes.get("classes", 1), **settings)  # type: ignore[call-arg]
    mappings = _fit(checkpoint, network)
    provenance = run_provenance() | {
        "converted": True,
        "source": checkpoint.path.name,
        "sha256": content_digest(checkpoint.path),
        "family": checkpoint.layout.name,
        "keys": count_mappings(mappings),
        "command": shlex.join(sys.argv),
    }
    if checkpoint.layout.encoder_only:
        metadata = {"format": PRETRAINED_FORMAT, "provenance": json.dumps(provenance)}
        save_safetensors(checkpoint.state, output, metadata=metadata)
    else:
        network.load_state_dict(checkpoint.state, strict=False)  # _fit has explained what is missing
        if network.reads_prompt:
            vector, origin = _default_vector(text, class_set, network.text_dim)
            network.default_text.copy_(vector)
            provenance["default_text"] = origin
        header = describe_volume_weights(
            network,
            class_set=class_set,
            bank=NoText(text.encoder, text.kind, settings["text_dim"]) if "text_dim" in settings else NoText(),
            spacing=spacing,
            roi_size=window,
            max_classes_per_prompt=max_classes_per_prompt,
            trained_classes=trained_classes,
        )
        save_weights(network, output, header=header, provenance=provenance)
    with atomic_write(f"{output}.keys.csv") as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(KeyMapping._fields)
        writer.writerows(mappings)
    return mappings


def _fit(checkpoint: PublicCheckpoint, network: nn.Module) -> list[KeyMapping]:
    """Explain every tensor of a file and of the network it belongs to; ValueError lists all that it cannot."""
    own = network.state_dict()
    if checkpoint.layout.encoder_only:
        own = {name: tensor for name, tensor in own.items() if name.startswith(checkpoint.network.ENCODER)}
    mappings = []
    problems: dict[str, list[str]] = defaultdict(list)
    for ours, tensor in checkpoint.state.items():
        key, shape = checkpoint.origin[ours], tuple(tensor.shape)
        if ours not in own:
            problems["without counterpart"].append(key)
        elif shape != tuple(own[ours].shape):
            problems["of another shape"].append(f"{key} {shape} instead of {tuple(own[ours].shape)}")
        elif not own[ours].is_floating_point() and (own[ours] != tensor).any():
            problems["of other values than the network computes"].append(key)
        mappings.append(KeyMapping(key, "mapped", ours, str(shape), ""))
    mappings += [KeyMapping(key, "dropped", "", "", reason) for key, reason in checkpoint.dropped.items()]
    for ours in own.keys() - checkpoint.state.keys():
        reasons = checkpoint.network.MAY_LACK.items()
        reason = next((why for pattern, why in reasons if re.fullmatch(pattern, ours)), None)
        if reason is None:
            problems["missing"].append(ours)
        else:
            mappings.append(KeyMapping(ours, "missing", ours, str(tuple(own[ours].shape)), reason))
    if problems:
        detail = "; ".join(f"{len(keys)} {what}: {listing(sorted(keys))}" for what, keys in problems.items())
        sizes = ", ".join(f"{key} {value}" for key, value in checkpoint.sizes.items())
        raise ValueError(
            f"{checkpoint.path} is not a whole network of family {checkpoint.layout.name!r} ({sizes}), and nothing was "
            f"written. Tensors {detail}."
        )
    return sorted(mappings, key=lambda mapping: (mapping.mapping, mapping.reason))


def count_mappings(mappings: Sequence[KeyMapping]) -> dict[str, int]:
    """How many keys were mapped, dropped or missing, by reason."""
    return Counter(f"{item.mapping}: {item.reason}" if item.reason else item.mapping for item in mappings)


def _check_text(checkpoint: PublicCheckpoint, text: Text) -> None:
    if "text_dim" not in checkpoint.sizes:
        if text.kind is not None:
            raise ValueError(f"A network of family {checkpoint.layout.name!r} reads no text: leave --text_kind out.")
        return
    if text.kind is None:
        raise ValueError(
            f"{checkpoint.path} does not say which text vectors it was trained with: state --text_kind. CLIP has two "
            "of one length, and they cannot replace each other: 'pooled' (CLIPTextModel's pooler_output, the "
            "references' text embedding) and 'projected' (that times text_projection: OpenAI's encode_text, and "
            "what the Universal Model's public banks hold). Look in the training code."
        )
    create_text_encoder(text.encoder, model=text.model, kind=text.kind)
    check_dimension(text.encoder, checkpoint.sizes["text_dim"], model=text.model)


def _check_classes(checkpoint: PublicCheckpoint, class_set: ClassSet) -> None:
    count = checkpoint.sizes.get("classes", len(class_set))
    if count != len(class_set):
        raise ValueError(
            f"{checkpoint.path} has {count} classes and the class set {class_set.name!r} has {len(class_set)}. "
            "Either pass the --class_set that it was trained for, or fine-tune it: train with --pretrained (this file "
            "itself) and --pretraining::new_head True. A network trained with softmax has a background channel "
            "besides (14 for the 13 organs of BTCV): it cannot be converted, since ours predict each class by a "
            "sigmoid; fine-tune it."
        )


def _default_vector(text: Text, class_set: ClassSet, dimension: int) -> tuple[torch.Tensor, str]:
    """The default prompt's vector (1, E), and where it comes from; zeros where it cannot be had."""
    encoder = create_text_encoder(text.encoder, model=text.model, kind=text.kind)
    try:
        vector = PromptBank(text.bank, encoder, create=False)(class_set.default_prompt)
    except (TextEncoderUnavailable, MissingPromptError):
        logger.warning(
            "Neither a bank with the default prompt nor the text encoder %r is at hand. Zeros stand for the prompt's "
            "vector: with a prompt the network predicts as trained, without one under zeros. Pass --text_bank or "
            "--text_model to have it.",
            text.encoder,
        )
        return torch.zeros(1, dimension), "zeros: neither a text bank nor the text encoder was at hand"
    if vector.shape[1] != dimension:
        raise ValueError(
            f"The checkpoint reads text vectors of length {dimension}; those of {text.encoder!r}, {text.kind!r} here "
            f"have {vector.shape[1]}: state the --text_encoder, --text_model and --text_kind of its training."
        )
    return vector, "text bank" if text.bank else "text encoder"
