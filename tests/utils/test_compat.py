"""Every workaround works and is still needed: a test fails once the bug is gone, and the workaround can go."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def _needs_torchvision() -> None:
    try:
        importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("torchvision is not installed (extra label)")


def test_torchvision_imports_with_the_workaround() -> None:
    code = "from custom.utils.compat import mend_torchvision as m; m(); m(); import torchvision, transformers; "
    done = _run(code + "transformers.CLIPTextModel; print(torchvision.__version__)")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="the bug shows beside a CPU build of torch")
def test_the_workaround_for_torchvision_is_still_needed() -> None:
    done = _run("import torch, torchvision")
    assert "operator torchvision::nms does not exist" in done.stderr, "gone: delete mend_torchvision"


def test_load_image_is_built_without_a_warning_about_nvidia() -> None:
    pytest.importorskip("pydicom")
    code = "from monai.transforms import LoadImage; from custom.utils.compat import without_nvimgcodec_warning as w\n"
    code += "with w(): LoadImage()\nimport sys; print('now', file=sys.stderr); LoadImage()"
    without, warned = _run(code).stderr.split("now")
    assert "NvImgCodec" not in without
    assert "NvImgCodecPydicomReader" in warned, "gone: delete without_nvimgcodec_warning"
