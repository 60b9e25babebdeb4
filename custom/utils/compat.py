"""Faults of released libraries, mended here and nowhere else; a test tells when a mend is no longer needed."""

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_libraries: list[Any] = []  # operators live as long as their library is referred to


def mend_torchvision() -> None:
    """Let ``import torchvision`` succeed beside a CPU build of torch.

    PyPI's torchvision is built for CUDA; beside a CPU torch its compiled operators do not load, and the Python part
    fails with "operator torchvision::nms does not exist", and with it transformers and MONAI Label, which import it.
    On that error only, the two operators are declared without a body, which nothing here calls.
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
    """Build MONAI's ``LoadImage`` without being told, where pydicom is installed, that an NVIDIA decoder is not.

    Nothing here reads DICOM through it.
    """
    plugin = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = plugin.level
    plugin.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
            yield
    finally:
        plugin.setLevel(level)
