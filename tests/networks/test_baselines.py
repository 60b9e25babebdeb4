"""SwinUNETR, UNETR and the Universal Model: MONAI's networks and the published formulas, with our interface."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from monai.networks import nets

from custom.inferers.sliding_window import PromptedSlidingWindowInferer
from custom.networks.swin_unetr import SwinUNETR
from custom.networks.unetr import UNETR
from custom.networks.universal_swin_unetr import UniversalSwinUNETR

CLASSES, TEXT_DIM = 5, 7
SWIN = {"window_size": 4}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def universal() -> UniversalSwinUNETR:
    torch.manual_seed(0)
    network = UniversalSwinUNETR(1, CLASSES, 12, TEXT_DIM, text_bank=torch.randn(CLASSES, TEXT_DIM), **SWIN)
    network.eval().requires_grad_(False)
    return network


@torch.no_grad()
def test_swin_unetr_equals_monai(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    ours, monai = SwinUNETR(1, CLASSES, 12, **SWIN).eval(), nets.SwinUNETR(1, CLASSES, feature_size=12, **SWIN).eval()
    monai.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours(images, torch.randn(1, TEXT_DIM)), monai(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_unetr_equals_monai(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    ours = UNETR(1, CLASSES, (64, 64, 32), feature_size=4, hidden_size=48).eval()
    monai = nets.UNETR(1, CLASSES, (64, 64, 32), feature_size=4, hidden_size=48, mlp_dim=192).eval()
    monai.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(ours(images, torch.randn(1, TEXT_DIM)), monai(images))


@torch.no_grad()
def test_universal_matches_the_published_formulas(universal: UniversalSwinUNETR, images: torch.Tensor) -> None:
    """Section 1 of the specification, class by class and image by image, on MONAI's own SwinUNETR."""
    state = universal.state_dict()
    trunk = nets.SwinUNETR(1, 1, feature_size=12, **SWIN).eval()
    trunk.load_state_dict({k: state.get(k, v) for k, v in trunk.state_dict().items()}, strict=True)
    hidden = trunk.swinViT(images, trunk.normalize)
    bottleneck = trunk.encoder10(hidden[4])
    decoded = trunk.decoder5(bottleneck, hidden[3])
    for up, skip in ((4, trunk.encoder4(hidden[2])), (3, trunk.encoder3(hidden[1])), (2, trunk.encoder2(hidden[0]))):
        decoded = getattr(trunk, f"decoder{up}")(decoded, skip)
    decoded = trunk.decoder1(decoded, trunk.encoder1(images))

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor, groups: int) -> torch.Tensor:
        return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])

    pooled = conv("pool.3", norm("pool.0", bottleneck, 16).relu().mean((2, 3, 4), keepdim=True))
    inputs = conv("precls_conv.2", norm("precls_conv.0", decoded, 4).relu())
    text = (state["text_bank"] @ state["text_to_vision.weight"].T + state["text_to_vision.bias"]).relu()
    expected = torch.empty(2, CLASSES, *images.shape[2:])
    for b in range(2):
        for k in range(CLASSES):
            condition = torch.cat([pooled[b, :, 0, 0, 0], text[k]])
            head = (state["controller.weight"].flatten(1) @ condition) + state["controller.bias"]
            assert head.shape == (153,)
            w1, w2, w3, b1, b2, b3 = head.split([64, 64, 8, 8, 8, 1])
            x = F.conv3d(inputs[b : b + 1], w1.view(8, 8, 1, 1, 1), b1).relu()
            x = F.conv3d(x, w2.view(8, 8, 1, 1, 1), b2).relu()
            expected[b, k] = F.conv3d(x, w3.view(1, 8, 1, 1, 1), b3)[0, 0]
    torch.testing.assert_close(universal(images), expected, rtol=1e-4, atol=1e-5)


def test_universal_has_the_published_sizes() -> None:
    network = UniversalSwinUNETR(1, 32, 48, 512)
    sizes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert sizes["text_bank"] == (32, 512)
    assert sizes["text_to_vision.weight"] == (256, 512)
    assert sizes["controller.weight"] == (153, 512, 1, 1, 1)
    assert sizes["pool.3.weight"] == (256, 768, 1, 1, 1)
    assert sizes["precls_conv.2.weight"] == (8, 48, 1, 1, 1)
    assert not any(name.startswith("out.") for name in sizes)
    groups = [module.num_groups for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert groups == [16, 16]


def test_universal_learns_text_and_controller(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = UniversalSwinUNETR(1, CLASSES, 12, TEXT_DIM, text_bank=torch.randn(CLASSES, TEXT_DIM), **SWIN)
    network(images[:1]).square().mean().backward()
    for name, parameter in network.named_parameters():
        if not name.startswith(("swinViT", "encoder", "decoder")):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", ["swinunetr", "unetr", "universal"])
def test_baselines_work_with_the_prompted_inferer(
    family: str, universal: UniversalSwinUNETR, images: torch.Tensor
) -> None:
    """The prompt selects channels and changes none of them."""
    torch.manual_seed(0)
    networks: dict[str, SwinUNETR | UNETR] = {
        "swinunetr": SwinUNETR(1, CLASSES, 12, **SWIN),
        "unetr": UNETR(1, CLASSES, (64, 64, 32), feature_size=4, hidden_size=48),
        "universal": universal,
    }
    network = networks[family]
    network.eval()
    named = torch.zeros(1, 1, CLASSES, dtype=torch.bool)
    named[0, 0, [1, 3]] = True
    inferer = PromptedSlidingWindowInferer((64, 64, 32), amp=False)
    with torch.no_grad():
        expected = network(images[:1])
        selected = inferer(images[:1], network, torch.empty(1, 1, 0), named)
        [logits] = inferer.each_prompt(images[:1], network, torch.empty(1, 1, 0))
    torch.testing.assert_close(selected, expected[:, [1, 3]], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert expected.sigmoid().mean() < 0.05  # the head starts at the foreground prior


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a vector for each class, \(5, 7\), not of shape \(4, 7\)"):
        UniversalSwinUNETR(1, CLASSES, 12, TEXT_DIM, text_bank=torch.zeros(4, TEXT_DIM))
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of num_heads, 12, not 100"):
        UNETR(1, CLASSES, (64, 64, 32), hidden_size=100)
    network = UNETR(1, CLASSES, (64, 64, 32), feature_size=4, hidden_size=48)
    with pytest.raises(ValueError, match=r"for images of \(64, 64, 32\) voxels, not \(64, 64, 64\)"):
        network.encode(torch.zeros(1, 1, 64, 64, 64))
