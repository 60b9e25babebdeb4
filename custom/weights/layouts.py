"""Weights of public codes under our names: what each layout calls its tensors, and what in it is not ours to keep."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from custom.networks.film_swin_unetr import SITE_CHANNELS, VARIANTS

#: Under which keys codes keep a network's state in a torch file.
WRAPPERS = ("state_dict", "net", "model")

#: How the names of Swin encoders' own integer buffers end.
INDEX = "relative_position_index"

#: Side of UNETR's patches, in voxels.
PATCH = 16


class Rule(NamedTuple):
    """What becomes of the tensors whose name matches: our name (as for ``re.sub``), or None and why it is dropped."""

    pattern: str
    ours: str | None
    reason: str = ""


def _film_rules(variant: str) -> tuple[Rule, ...]:
    """The author's network of a variant: its blocks count channel widths upward, ours are named after their place."""
    sites = sorted(VARIANTS[variant].sites, key=lambda site: SITE_CHANNELS[site])
    blocks = ["film_block"] if variant == "bottleneck" else [rf"deep_film_block\.{i}" for i in range(len(sites))]
    pairs = list(zip(blocks, sites, strict=True))
    return (
        Rule(r"swin_unetr\.(.+)", r"\1"),
        *(Rule(rf"{block}\.((?:gamma|beta)\..+)", rf"film.{site}.\1") for block, site in pairs),
        *(Rule(rf"{block}\.layer_norm\.(.+)", rf"film.{site}.norm.\1") for block, site in pairs),
        Rule(r"text_encoder\..+", None, "frozen text encoder, which no weights of ours hold"),
    )


#: Families of layouts and the fate of their names, without ``module.`` and with the present names of MLP layers.
FAMILIES: Mapping[str, tuple[Rule, ...]] = {
    **{variant: _film_rules(variant) for variant in VARIANTS},
    "universal": (
        Rule(r"(?:backbone\.)?((?:swinViT|encoder\d+|decoder\d+)\..+)", r"\1"),
        Rule(r"(?:backbone\.)?out\..+", None, "head of the plain SwinUNETR, which the Universal Model does not use"),
        Rule(r"organ_embedding", "text_bank"),
        Rule(r"GAP\.(.+)", r"pool.\1"),
        Rule(r"((?:text_to_vision|controller|precls_conv)\..+)", r"\1"),
    ),
    "swinunetr": (Rule(r"((?:swinViT|encoder\d+|decoder\d+|out)\..+)", r"\1"),),
    "unetr": (
        Rule(r"vit\.patch_embedding\.cls_token", None, "class token, which UNETR does not read"),
        Rule(r"vit\.patch_embedding\.patch_embeddings\.1\.(weight|bias)", r"vit.patch_embedding.patch_embeddings.\1"),
        Rule(r"((?:vit|encoder\d+|decoder\d+|out)\..+)", r"\1"),
    ),
    "swin_ssl": (
        Rule(r"(?:swinViT\.)?((?:patch_embed|layers\d)\..+)", r"swinViT.\1"),
        Rule(
            r"(?:(?:rotation|contrastive)_(?:pre|head)|convTrans3d|conv3d|conv)\..+", None, "head of the pretext tasks"
        ),
        Rule(r"norm\.(?:weight|bias)", None, "last normalisation of the pretext tasks, which SwinUNETR does not use"),
    ),
}

#: By which name a family is known; the first that occurs decides.
_MARKS = (
    (r"deep_film_block\.\d+\.layer_norm\.", "film2"),
    (r"deep_film_block\.", "film"),
    (r"film_block\.", "bottleneck"),
    (r"organ_embedding|controller\.|precls_conv\.|GAP\.|text_to_vision\.", "universal"),
    (r"vit\.", "unetr"),
    (r"encoder\d+\.|decoder\d+\.", "swinunetr"),
    (r"(?:swinViT\.)?(?:patch_embed|layers\d)\.", "swin_ssl"),
)


@dataclass(frozen=True)
class PublicCheckpoint:
    """A file of another code, read and renamed.

    ``state`` is by our names, ``origin`` gives their name for each; ``dropped`` maps their names to why they are left
    out. ``sizes`` are what the shapes tell: ``feature_size``; ``window_size`` of a Swin encoder; ``hidden_size`` and
    ``positions`` (position embeddings) of UNETR; ``classes``, where there is a head or a text bank; ``text_dim``.
    """

    path: Path
    family: str
    state: dict[str, torch.Tensor]
    origin: dict[str, str]
    dropped: dict[str, str]
    sizes: dict[str, int]


def read_public_checkpoint(path: str | Path, family: str | None = None) -> PublicCheckpoint:
    """Read weights of a public code and give their tensors our names.

    Args:
        path: a .safetensors file, or a torch file of plain tensors (``weights_only``), possibly wrapped in one of
            ``WRAPPERS``; names may carry ``module.``.
        family: a key of ``FAMILIES``; None finds it from the names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, more than tensors inside or none, an unknown layout or another than ``family``,
            names that the layout does not explain, NaN, or sizes that no network of ours has.
    """
    path = Path(path)
    theirs, beside = _read_state(path)
    names: dict[str, str] = {}
    for name in theirs:
        plain = re.sub(r"^(module\.)+", "", name).replace(".mlp.fc", ".mlp.linear")
        if plain in names:
            raise ValueError(f"{path} holds one tensor twice, as {names[plain]} and {name}: remove one.")
        names[plain] = name
    found = _recognise(path, names)
    if family not in (None, *FAMILIES):
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}.")
    if family not in (None, found):
        raise ValueError(f"{path} was said to be of family {family!r}, but its names are those of {found!r}.")
    origin: dict[str, str] = {}
    dropped: dict[str, str] = dict.fromkeys(beside, "beside the network's state")
    unexplained = []
    for plain, name in names.items():
        rule = next((rule for rule in FAMILIES[found] if re.fullmatch(rule.pattern, plain)), None)
        if rule is None:
            unexplained.append(name)
        elif rule.ours is None:
            dropped[name] = rule.reason
        elif (ours := re.sub(rule.pattern, rule.ours, plain)) in origin:
            raise ValueError(f"{path} holds {ours} twice, as {origin[ours]} and {name}: remove one.")
        else:
            origin[ours] = name
    if unexplained:
        raise ValueError(
            f"{path} is of family {found!r}, which does not explain {len(unexplained)} of its names: "
            f"{listing(unexplained)}. Nothing was taken: another variant of that network is not supported."
        )
    state = {ours: theirs[name] for ours, name in origin.items()}
    if unfit := [
        f"{origin[o]} {t.dtype}" for o, t in state.items() if not (t.is_floating_point() or o.endswith(INDEX))
    ]:
        raise ValueError(
            f"{path} holds {len(unfit)} parameters that are no floating-point numbers: {listing(unfit)}. Give the "
            "weights before they were quantised."
        )
    if unfit := [origin[ours] for ours, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(unfit)} tensors: {listing(unfit)}. The training that wrote it "
            "failed: use an earlier checkpoint."
        )
    if found == "unetr":
        _fold_patch_embedding(state)
    return PublicCheckpoint(path, found, state, origin, dropped, _sizes(path, found, state))


def listing(names: Sequence[str]) -> str:
    """The first ten names, and how many there are besides."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a network by name, and what else the file holds beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"There are no pretrained weights at {path} (--pretrained, --source).")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path)), []
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle raise nearly anything
        raise ValueError(f"{path} holds more than tensors, or is damaged, and was not loaded: {error}") from error
    beside: list[str] = []
    while isinstance(content, dict) and (wrappers := [key for key in WRAPPERS if isinstance(content.get(key), dict)]):
        if len(wrappers) > 1:
            raise ValueError(f"{path} holds several states, {' and '.join(wrappers)}: save the one that is meant.")
        beside += [str(key) for key in content if key != wrappers[0]]
        content = content[wrappers[0]]
    content = content if isinstance(content, dict) else {}
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise ValueError(f"{path} holds no tensors by name (searched also under {', '.join(WRAPPERS)}).")
    if others := sorted(str(name) for name in content if str(name) not in state):
        raise ValueError(f"{path} holds {len(others)} values among its tensors that are none: {listing(others)}.")
    return state, beside


def _recognise(path: Path, names: Collection[str]) -> str:
    if any(re.search(r"(^|\.)layers\dc\.", name) for name in names):
        raise ValueError(f"{path} is a SwinUNETR-V2 (it has layers1c), whose networks are not supported: use a V1.")
    if "organ_embedding.weight" in names:
        raise ValueError(
            f"{path} is a Universal Model with learned class vectors (rand_embedding), which reads no text. Only the "
            "one with text vectors (word_embedding: organ_embedding and text_to_vision) is supported."
        )
    if any(name.startswith(("film.", "text_bank")) for name in names):
        raise ValueError(
            f"{path} holds a network of this project without the header that says what it is. Give the .safetensors "
            "file that training wrote."
        )
    family = next((family for mark, family in _MARKS if _any(mark, names)), None)
    if family is None:
        raise ValueError(
            f"{path} is none of the known layouts ({', '.join(FAMILIES)}); its names: {listing(list(names))}."
        )
    if family == "universal" and not _any(r"(?:backbone\.)?swinViT\.", names):
        raise ValueError(f"{path} is a Universal Model on another backbone than SwinUNETR, which is not supported.")
    return family


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(re.match(pattern, name) for name in names)


def _fold_patch_embedding(state: dict[str, torch.Tensor]) -> None:
    """Older UNETRs multiply flattened patches (p1 p2 p3 c) by a matrix: the same as a convolution of stride 16."""
    name = "vit.patch_embedding.patch_embeddings.weight"
    if name in state and state[name].ndim == 2 and state[name].shape[1] == PATCH**3:  # c is 1, else refused below
        state[name] = state[name].reshape(-1, 1, PATCH, PATCH, PATCH)


def _sizes(path: Path, family: str, state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    def shape(name: str, rank: int) -> torch.Size:
        if name not in state:
            raise ValueError(f"{path} lacks {name}, without which it is no network of family {family!r}.")
        if state[name].ndim != rank:
            raise ValueError(f"{name} of {path} must have {rank} axes, not the shape {tuple(state[name].shape)}.")
        return state[name].shape

    sizes: dict[str, Any] = {}
    if family == "unetr":
        sizes["feature_size"], channels = shape("encoder1.layer.conv1.conv.weight", 5)[:2]
        _, sizes["positions"], sizes["hidden_size"] = shape("vit.patch_embedding.position_embeddings", 3)
    else:
        sizes["feature_size"], channels = shape("swinViT.patch_embed.proj.weight", 5)[:2]
        rows = shape("swinViT.layers1.0.blocks.0.attn.relative_position_bias_table", 2)[0]
        width = round(rows ** (1 / 3))
        if width**3 != rows or width % 2 == 0:
            raise ValueError(f"{path} has windows that are no cubes ({rows} relative positions): not supported.")
        sizes["window_size"] = (width + 1) // 2
    if channels != 1:
        raise ValueError(f"{path} takes images of {channels} channels; CT has one: not supported.")
    if family == "universal":
        sizes["classes"], sizes["text_dim"] = shape("text_bank", 2)
    elif family != "swin_ssl":
        sizes["classes"] = shape("out.conv.conv.weight", 5)[0]
    if family in VARIANTS:
        sizes["text_dim"] = shape("film.dec4.gamma.weight", 2)[1]
    return sizes
