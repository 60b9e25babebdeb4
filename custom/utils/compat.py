"""Workarounds for bugs of released libraries; a test fails once one is no longer needed."""

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_libraries: list[Any] = []  # operators live as long as their library is referenced


def mend_torchvision() -> None:
    """Let ``import torchvision`` succeed beside a CPU build of torch.

    PyPI's torchvision is built for CUDA; beside a CPU torch its operators do not load, and imports of it, transformers
    and MONAI Label fail: "operator torchvision::nms does not exist". On that error only, the two operators are declared
    without a body; nothing here calls them.
    """
    if _libraries or "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        importlib.import_module("torchvision")


@contextmanager
def without_nvimgcodec_warning() -> Iterator[None]:
    """Build MONAI's ``LoadImage`` without the warning that an NVIDIA decoder for pydicom, unused here, is missing."""
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
            yield
    finally:
        plugin.setLevel(level)
