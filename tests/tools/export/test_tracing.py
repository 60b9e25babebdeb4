"""A traced network gives the network's logits for other images and texts than it was traced with."""

import logging
from pathlib import Path

import pytest
import torch

from custom.networks.film_swin_unetr import FiLMSwinUNETR
from custom.networks.swin_unetr import Features
from custom.tools.export.tracing import TOLERANCE, write_onnx, write_torchscript

ROI, TEXT_DIM = (64, 32, 32), 16


@pytest.fixture(scope="module", params=["film", "film2"])
def network(request: pytest.FixtureRequest) -> FiLMSwinUNETR:
    torch.manual_seed(0)
    network = FiLMSwinUNETR(1, 3, 12, TEXT_DIM, request.param, window_size=4, use_flash_attention=True)
    network.eval()
    return network


def test_torchscript_has_the_network_and_its_halves(network: FiLMSwinUNETR, tmp_path: Path) -> None:
    assert write_torchscript(network, tmp_path / "model.ts", ROI) < TOLERANCE
    traced = torch.jit.load(str(tmp_path / "model.ts"))  # type: ignore[no-untyped-call]
    image, text = torch.rand(1, 1, *ROI), torch.randn(1, TEXT_DIM)
    with torch.no_grad():
        expected = network(image, text)
        features = traced.encode(image)
        assert len(features) == len(Features._fields)
        for found in (traced(image, text), traced.decode(*features, text)):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(traced.decode(*features, -text), expected, atol=1e-3), "text stays an input"


def test_a_network_with_other_logits_is_not_written(
    network: FiLMSwinUNETR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custom.tools.export.tracing.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="was not written"):
        write_torchscript(network, tmp_path / "model.ts", ROI)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_without_text_warns_of_the_default_prompt(
    network: FiLMSwinUNETR, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), torch.no_grad():
        torch.jit.trace(network, torch.rand(1, 1, *ROI), check_trace=False)  # type: ignore[no-untyped-call]
    assert "default prompt is baked in" in caplog.text


@pytest.mark.slow
def test_onnx_halves_give_the_same_logits(network: FiLMSwinUNETR, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    assert write_onnx(network, tmp_path, ROI) < TOLERANCE
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {"encode.onnx", "decode.onnx"}
    write_onnx(network, tmp_path, ROI)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
