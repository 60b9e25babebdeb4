"""States of our networks, laid out as the checkpoints of public codes are."""

from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel

State = dict[str, torch.Tensor]

#: Block numbers of the author's code.
BLOCKS = {
    "film": {"dec1": 0, "dec2": 1, "dec3": 2, "dec4": 3},
    "film2": {"enc1": 0, "enc2": 1, "enc3": 2, "hidden3": 3, "dec4": 4},
}


def old_mlp(state: State) -> State:
    return {name.replace(".mlp.linear", ".mlp.fc"): tensor for name, tensor in state.items()}


def authors(state: State, family: str) -> Any:
    """As the author's Deep FiLM: a frozen CLIP text model inside, the optimizer beside."""
    content = {}
    for name, tensor in state.items():
        if name.startswith("film."):
            _, site, rest = name.split(".", 2)
            block = f"deep_film_block.{BLOCKS[family][site]}" if family in BLOCKS else "film_block"
            content[f"{block}.{rest.replace('norm.', 'layer_norm.')}"] = tensor
        elif name != "default_text":
            content[f"swin_unetr.{name}"] = tensor
    config = CLIPTextConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    clip = {
        f"text_encoder.text_model.{n.removeprefix('text_model.')}": t
        for n, t in CLIPTextModel(config).state_dict().items()
    }
    clip |= {
        "text_encoder.text_projection.weight": torch.zeros(8, 8),
        "text_encoder.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    net = {f"module.{name}": tensor for name, tensor in (content | clip).items()}
    return {"net": net, "epoch": 160, "optimizer": {"state": {}, "lr": 1e-4}, "scheduler": {"last_epoch": 160}}


def universal(state: State, family: str) -> Any:
    """As the CLIP-Driven Universal Model: a head that it does not use, MLPs of older names."""
    content = {}
    for name, tensor in state.items():
        name = "organ_embedding" if name == "text_bank" else name.replace("pool.", "GAP.")
        content[f"backbone.{name}" if name.startswith(("swinViT", "encoder", "decoder")) else name] = tensor
    content |= {"backbone.out.conv.conv.weight": torch.zeros(32, 12, 1, 1, 1)}
    return {"net": {f"module.{name}": tensor for name, tensor in old_mlp(content).items()}, "epoch": 7}
