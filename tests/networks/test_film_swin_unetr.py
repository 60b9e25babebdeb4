import pytest
import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

from custom.inferers.simple import PromptedInferer
from custom.losses.partial_label import PartialLabelLoss
from custom.networks.film import ResidualFiLM
from custom.networks.film_swin_unetr import VARIANTS, FiLMSwinUNETR, Variant
from custom.networks.swin_unetr import Features

TEXT_DIM = 16


def network(**options: object) -> FiLMSwinUNETR:
    torch.manual_seed(0)
    return FiLMSwinUNETR(1, 3, 12, TEXT_DIM, **{"window_size": 4, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> FiLMSwinUNETR:
    net = network()
    net.eval()
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def cube() -> torch.Tensor:
    """One image of 64x64x64 voxels, whose bottleneck is 2x2x2."""
    return torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts() -> torch.Tensor:
    return torch.randn(2, TEXT_DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def features(net: FiLMSwinUNETR, images: torch.Tensor) -> Features:
    with torch.no_grad():
        return net.encode(images)


def plain_with(net: FiLMSwinUNETR) -> MonaiSwinUNETR:
    """MONAI's own SwinUNETR with the network's backbone weights."""
    plain = MonaiSwinUNETR(in_channels=1, out_channels=3, feature_size=12, window_size=4).eval()
    state = net.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()}, strict=True)
    return plain


def modulate(state: dict[str, torch.Tensor], site: str, x: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """gamma(t) * x + beta(t)."""
    gamma = texts @ state[f"film.{site}.gamma.weight"].T + state[f"film.{site}.gamma.bias"]
    beta = texts @ state[f"film.{site}.beta.weight"].T + state[f"film.{site}.beta.bias"]
    modulated: torch.Tensor = gamma[:, :, None, None, None] * x + beta[:, :, None, None, None]
    return modulated


@torch.no_grad()
def test_film_matches_the_published_formulas(net: FiLMSwinUNETR, images: torch.Tensor, texts: torch.Tensor) -> None:
    """Section 1 of the specification, written out on plain MONAI modules that hold the same weights."""
    plain, state = plain_with(net), net.state_dict()

    def film(site: str, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == {"dec4": 192, "dec3": 96, "dec2": 48, "dec1": 24}[site]
        return modulate(state, site, x, texts)

    h0, h1, h2, h3, h4 = plain.swinViT(images, plain.normalize)
    enc0, enc1, enc2, enc3 = plain.encoder1(images), plain.encoder2(h0), plain.encoder3(h1), plain.encoder4(h2)
    dec4 = plain.encoder10(h4)
    dec3 = plain.decoder5(film("dec4", dec4), h3)
    dec2 = plain.decoder4(film("dec3", dec3), enc3)
    dec1 = plain.decoder3(film("dec2", dec2), enc2)
    dec0 = plain.decoder2(film("dec1", dec1), enc1)
    expected = plain.out(plain.decoder1(dec0, enc0))
    torch.testing.assert_close(net(images, texts), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_film2_matches_the_published_formulas(images: torch.Tensor, texts: torch.Tensor) -> None:
    net = network(variant="film2").eval()
    for name, parameter in net.named_parameters():
        if ".norm." in name and name.startswith("film."):
            torch.nn.init.normal_(parameter)
    plain, state = plain_with(net), net.state_dict()

    def film(site: str, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == {"enc1": 12, "enc2": 24, "enc3": 48, "hidden3": 96, "dec4": 192}[site]
        y = modulate(state, site, x, texts)
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        weight, bias = (state[f"film.{site}.norm.{name}"][None, :, None, None, None] for name in ("weight", "bias"))
        added: torch.Tensor = x + weight * y + bias
        return added

    h0, h1, h2, h3, h4 = plain.swinViT(images, plain.normalize)
    dec3 = plain.decoder5(film("dec4", plain.encoder10(h4)), film("hidden3", h3))
    dec2 = plain.decoder4(dec3, film("enc3", plain.encoder4(h2)))
    dec1 = plain.decoder3(dec2, film("enc2", plain.encoder3(h1)))
    dec0 = plain.decoder2(dec1, film("enc1", plain.encoder2(h0)))
    expected = plain.out(plain.decoder1(dec0, plain.encoder1(images)))
    torch.testing.assert_close(net(images, texts), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_film2_with_zero_norms_is_plain_swin_unetr(images: torch.Tensor, texts: torch.Tensor) -> None:
    net = network(variant="film2").eval()
    for block in net.film.values():
        torch.nn.init.zeros_(block.norm.weight)
        torch.nn.init.zeros_(block.norm.bias)
    torch.testing.assert_close(net(images, texts), plain_with(net)(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_bottleneck_modulates_the_bottleneck_alone(images: torch.Tensor, texts: torch.Tensor) -> None:
    net = network(variant="bottleneck").eval()
    features = net.encode(images)
    modulated = features._replace(dec4=modulate(net.state_dict(), "dec4", features.dec4, texts))
    torch.testing.assert_close(net(images, texts), net.out(net.up(modulated)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_film_is_at_the_declared_sites_only(variant: str) -> None:
    names = list(network(variant=variant).state_dict())
    assert {name.split(".")[1] for name in names if name.startswith("film.")} == set(VARIANTS[variant].sites)
    backbone = {name for name in names if not name.startswith("film.") and name != "default_text"}
    assert backbone == set(MonaiSwinUNETR(1, 3, feature_size=12, window_size=4).state_dict())


def test_a_new_variant_needs_one_declaration(
    images: torch.Tensor, texts: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "skips", Variant(ResidualFiLM, ("enc2", "dec1")))
    net = network(variant="skips").eval()
    with torch.no_grad():
        assert (net(images[:1], texts[:1]) - net(images[:1], texts[1:])).abs().max() > 1e-3
    assert set(net.film) == {"enc2", "dec1"}


@torch.no_grad()
def test_text_changes_the_logits_of_its_own_sample(
    net: FiLMSwinUNETR, images: torch.Tensor, texts: torch.Tensor, features: Features
) -> None:
    both = net.decode(features, texts)
    for i in range(2):
        own = Features(*(f[i : i + 1] for f in features))
        torch.testing.assert_close(net.decode(own, texts[i : i + 1])[0], both[i], rtol=0, atol=1e-5)
    assert (net.decode(features, texts.flip(0)) - both).abs().max() > 1e-2
    one = net.decode(features, texts[:1])
    torch.testing.assert_close(one[0], both[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_one_encoding_serves_several_texts(net: FiLMSwinUNETR, images: torch.Tensor, texts: torch.Tensor) -> None:
    encoded = net.encode(images[:1])
    before = [tensor.clone() for tensor in encoded]
    for text in (texts[:1], texts[1:]):
        torch.testing.assert_close(net.decode(encoded, text), net(images[:1], text), rtol=0, atol=1e-6)
    for held, again, kept in zip(encoded, net.encode(images[:1]), before, strict=True):
        torch.testing.assert_close(held, kept, rtol=0, atol=0)  # decode changed nothing
        torch.testing.assert_close(again, kept, rtol=0, atol=0)  # and encode does not depend on text


@torch.no_grad()
def test_no_text_means_the_default_prompt(images: torch.Tensor, texts: torch.Tensor) -> None:
    net = network(default_text=texts[0]).eval()
    assert "default_text" in net.state_dict()
    torch.testing.assert_close(net(images[:1]), net(images[:1], texts[:1]), rtol=0, atol=0)


def test_encode_shapes(features: Features) -> None:
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in features._asdict().items()}
    assert shapes == {
        "enc0_inner": (12, 64, 32, 32),
        "enc0_residual": (12, 64, 32, 32),
        "enc1": (12, 32, 16, 16),
        "enc2": (24, 16, 8, 8),
        "enc3": (48, 8, 4, 4),
        "hidden3": (96, 4, 2, 2),
        "dec4": (192, 2, 1, 1),
    }


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 64, 64, 60), "multiple of 32"),
        ((1, 2, 64, 64, 64), r"\(B, 1, H, W, D\)"),
        ((1, 64, 64, 64), r"\(B, 1, H, W, D\)"),
    ],
)
def test_wrong_images_are_refused(net: FiLMSwinUNETR, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 15), r"\(B, 16\)"), ((16,), r"\(B, 16\)"), ((3, 16), "one for each of the 2 images")],
)
def test_wrong_texts_are_refused(net: FiLMSwinUNETR, features: Features, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net.decode(features, torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "flim"}, "variant must be one of film"),
        ({"text_dim": 0}, "text_dim must be"),
        ({"default_text": torch.zeros(3)}, "default_text must hold text_dim = 16"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], message: str) -> None:
    arguments = {"in_channels": 1, "out_channels": 3, "feature_size": 12, "text_dim": TEXT_DIM, **options}
    with pytest.raises(ValueError, match=message):
        FiLMSwinUNETR(**arguments)  # type: ignore[arg-type]


def gradients(net: FiLMSwinUNETR, image: torch.Tensor, text: torch.Tensor, *, amp: bool) -> dict[str, torch.Tensor]:
    """Gradients of one training step as the bundle takes it."""
    target = (torch.rand(1, 3, 64, 64, 64, generator=torch.Generator().manual_seed(3)) > 0.7).to(torch.int8)
    net.train().zero_grad()
    PartialLabelLoss()(PromptedInferer(amp=amp)(image, net, text), target).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def full_precision(cube: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
    return gradients(network(), cube, texts[:1], amp=False)


def test_checkpointing_changes_no_gradient(
    cube: torch.Tensor, texts: torch.Tensor, full_precision: dict[str, torch.Tensor]
) -> None:
    again = gradients(network(use_checkpoint=True), cube, texts[:1], amp=False)
    assert again.keys() == full_precision.keys()
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, full_precision[name], rtol=1e-3, atol=1e-6)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def test_gradients_of_the_shipped_precision_are_right(
    cube: torch.Tensor, texts: torch.Tensor, full_precision: dict[str, torch.Tensor]
) -> None:
    """What ``--amp True`` does on this machine (bfloat16 where it is native) against float32."""
    shipped = gradients(network(), cube, texts[:1], amp=True)
    assert shipped.keys() == full_precision.keys()
    worst = max(full_precision, key=lambda name: relative_error(shipped[name], full_precision[name]))
    every = torch.cat([gradient.flatten() for gradient in shipped.values()])
    assert relative_error(every, torch.cat([g.flatten() for g in full_precision.values()])) < 0.1, worst
    for name, gradient in full_precision.items():
        if name.startswith("encoder10.") and "conv" in name:
            # Gradients through the bfloat16 decoder are 0.3 to 0.4 off; the bug of the next test makes it 0.8 and more.
            assert relative_error(shipped[name], gradient) < 0.6, name


def test_bottleneck_gradients_are_exact_under_forced_cpu_bfloat16(cube: torch.Tensor) -> None:
    """CPU bfloat16 Conv3d weight gradients are wrong on 2x2x2 maps (torch 2.13): the bottleneck must avoid them."""
    net = network().train()
    net.swinViT.requires_grad_(False)  # only the bottleneck's gradients are tested
    inputs: list[torch.Tensor] = []
    hook = net.encoder10.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].detach()))
    with torch.autocast("cpu", torch.bfloat16):
        *_, dec4 = net.encode_low_res(cube)
    hook.remove()
    assert inputs[0].shape[2:] == (2, 2, 2)
    weights = dict(net.encoder10.named_parameters())
    pattern = torch.randn(dec4.shape, generator=torch.Generator().manual_seed(4))
    forced = torch.autograd.grad((dec4.float() * pattern).sum(), list(weights.values()))
    exact = torch.autograd.grad((net.encoder10(inputs[0].float()) * pattern).sum(), list(weights.values()))
    for name, a, b in zip(weights, forced, exact, strict=True):
        assert relative_error(a, b) < 1e-4, name


def test_the_head_starts_at_one_percent_foreground(net: FiLMSwinUNETR) -> None:
    torch.testing.assert_close(net.out.conv.conv.bias.sigmoid(), torch.full((3,), 0.01))
