"""A network as TorchScript or ONNX, traced in its two halves, for programs without Python or without this package."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom.networks.swin_unetr import Features, SwinUNETR
from custom.utils.files import atomic_write

#: Largest difference of a traced network's logits from the network's own, relative to the largest logit.
TOLERANCE = 1e-3


class Halves(nn.Module):
    """A network that reads text, with methods that take and return tensors only, as tracing requires."""

    def __init__(self, network: SwinUNETR) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, H, W, D) of an image (B, 1, H, W, D) under text (1, E)."""
        logits: torch.Tensor = self.network(image, text)
        return logits

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``Features`` of an image, which do not depend on text."""
        return tuple(self.network.encode(image))

    def decode(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the tensors of ``encode``, followed by text (1, E)."""
        *features, text = inputs
        return self.network.decode(Features(*features), text)


def write_torchscript(network: SwinUNETR, path: str | Path, roi_size: Sequence[int]) -> float:
    """Write TorchScript with three methods: ``forward(image, text)``, ``encode(image)``, ``decode(*features, text)``.

    Tracing fixes the window: every image is (1, 1, H, W, D) of ``roi_size`` voxels. Text (1, E) stays an input. The
    network is in evaluation mode, on the CPU.

    Returns:
        The largest difference from the network's own logits, relative to the largest logit, for another image and text
        than those of the tracing.

    Raises:
        ValueError: the difference is above ``TOLERANCE``; nothing is written.
    """
    halves = Halves(network)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of each constant shape
        image, text = _example(0, network, roi_size)
        inputs = {"forward": (image, text), "encode": image, "decode": (*halves.encode(image), text)}
        traced = torch.jit.trace_module(halves, inputs, check_trace=False)  # type: ignore[no-untyped-call]
        image, text = _example(1, network, roi_size)
        expected = network(image, text)
        results = (traced(image, text), traced.decode(*traced.encode(image), text))
        differences = [_checked(logits, expected, path) for logits in results]
    stream = io.BytesIO()  # torch would write the file's name into the file
    torch.jit.save(traced, stream)
    with atomic_write(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    return max(differences)


def write_onnx(network: SwinUNETR, folder: str | Path, roi_size: Sequence[int]) -> float:
    """Write ``encode.onnx`` (image to features) and ``decode.onnx`` (features and text to logits) to a folder.

    Needs the extra ``onnx``. Arguments, fixed window, returned difference (by ONNX Runtime) and errors are those of
    ``write_torchscript``.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX comes with the extra 'onnx': pip install -e '.[onnx]'.") from error
    names = list(Features._fields)
    image, text = _example(0, network, roi_size)
    with torch.no_grad():
        encode = _onnx(network, "encode", {"image": image}, names)
        features = dict(zip(names, network.encode(image), strict=True))
        decode = _onnx(network, "decode", features | {"text": text}, ["logits"])
        image, text = _example(1, network, roi_size)
        expected = network(image, text)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    found = onnxruntime.InferenceSession(encode, options).run(names, {"image": image.numpy()})
    inputs = dict(zip(names, found, strict=True)) | {"text": text.numpy()}
    (logits,) = onnxruntime.InferenceSession(decode, options).run(["logits"], inputs)
    difference = _checked(torch.from_numpy(logits), expected, folder)
    for name, content in (("encode.onnx", encode), ("decode.onnx", decode)):
        with atomic_write(Path(folder) / name) as temporary:
            temporary.write_bytes(content)
    return difference


def _onnx(network: SwinUNETR, method: str, inputs: dict[str, torch.Tensor], outputs: list[str]) -> bytes:
    """A method of ``Halves``, which the exporter must find as a module's ``forward``."""
    half = Halves(network).eval()
    half.forward = getattr(half, method)  # type: ignore[method-assign]
    names, values = list(inputs), tuple(inputs.values())
    with warnings.catch_warnings(action="ignore"):
        program: Any = torch.onnx.export(
            half, values, input_names=names, output_names=outputs, dynamo=True, verbose=False
        )
    proto = program.model_proto
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            node.ClearField("metadata_props")  # stack traces with paths of this machine
    content: bytes = proto.SerializeToString()
    return content


def _example(seed: int, network: Any, roi_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, *roi_size, generator=generator), torch.randn(1, network.text_dim, generator=generator)


def _checked(found: torch.Tensor, expected: torch.Tensor, path: str | Path) -> float:
    """The largest difference, relative to the largest logit; raises where it is above ``TOLERANCE`` or NaN."""
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise ValueError(
            f"The logits of a traced network must be the network's own, to {TOLERANCE} of the largest; those of {path} "
            f"differ by {error:.2g}. It was not written: this version of torch cannot trace this network."
        )
    return error
