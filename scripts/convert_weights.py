"""Convert files of public codes to this project's: network weights, and banks of prompt vectors."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from custom.anatomy.loading import CT_CLASSES, load_class_set
from custom.prompts.resolve import normalise_prompt, resolve_prompt
from custom.text.bank import PromptBank
from custom.text.encoders import check_dimension, create_text_encoder
from custom.tools.command_line import run_script
from custom.tools.conversion.checkpoints import Text, convert_network, count_mappings
from custom.tools.conversion.prompt_banks import GivenVectors, read_old_bank


def network(
    *,
    source: str,
    output: str,
    family: str | None = None,
    class_set: str = str(CT_CLASSES),
    text_encoder: str = "clip",
    text_kind: str | None = None,
    text_model: str | None = None,
    text_bank: str | None = None,
    spacing: Sequence[float] | None = None,
    roi_size: Sequence[int] | None = None,
    max_classes_per_prompt: int = 15,
    trained_classes: object = None,
) -> None:
    """Convert a checkpoint of a public code to weights of this project, and write the mapping of every key beside it.

    Known are the author's Deep FiLM, Deep FiLM 2 and bottleneck ablation, the CLIP-Driven Universal Model, MONAI's
    SwinUNETR and UNETR, and Swin encoders trained by self-supervision, which become a file for --pretrained.

    Example: python scripts/convert_weights.py network --source epoch_160.pth --output model.safetensors
    --text_kind pooled

    Args:
        source: The checkpoint: .pth, .pt or .safetensors.
        output: The .safetensors file to write; <output>.keys.csv has the mapping of every key.
        family: film, film2, bottleneck, universal, swinunetr, unetr or swin_ssl; found from the names when left out.
        class_set: JSON file of the classes of its output channels, in order.
        text_encoder: Text encoder of its training: clip or minilm.
        text_kind: Which CLIP vectors it was trained with, pooled or projected; required for networks with text.
        text_model: Hub id or folder of another CLIP, for the default prompt's vector.
        text_bank: Prompt bank that holds the default prompt's vector.
        spacing: Working resolution of its training in mm, as [1.5,1.5,1.5]; the class set's when left out.
        roi_size: Window of its training in voxels; [96,96,96] when left out, or a cubic UNETR's own.
        max_classes_per_prompt: Most classes that one sentence may name.
        trained_classes: The classes that its training data labelled, as a prompt; all when left out.
    """
    classes = load_class_set(class_set)
    known = None if trained_classes is None else resolve_prompt(normalise_prompt(trained_classes), classes).indices
    mappings = convert_network(
        source,
        output,
        class_set=classes,
        text=Text(text_encoder, text_kind, text_model, text_bank),
        trained_classes=[item.name for item in classes if known is None or item.index in known],
        family=family,
        spacing=spacing,
        roi_size=roi_size,
        max_classes_per_prompt=max_classes_per_prompt,
    )
    table = Table("keys", "count")
    for mapping, count in count_mappings(mappings).items():
        table.add_row(mapping, str(count))
    Console().print(table)
    print(f"{output} ({Path(output).stat().st_size / 1e6:.1f} MB); every key: {output}.keys.csv")


def bank(
    *,
    source: str,
    output: str,
    text_encoder: str,
    text_kind: str,
    text_model: str | None = None,
    class_set: str = str(CT_CLASSES),
) -> None:
    """Write the prompt vectors that another code saved (pickle, torch file or .npz) as a prompt bank.

    Prompts are added to an existing bank of the same encoder and kind. Code in a pickle is never run.

    Example: python scripts/convert_weights.py bank --source txt_encoding.pth --output bank.safetensors
    --text_encoder clip --text_kind projected

    Args:
        source: {prompt: vector}, a tensor with a row for each class, or an .npz of prompts and embeddings.
        output: The prompt bank (.safetensors) to write or add to.
        text_encoder: The encoder of the vectors: clip or minilm.
        text_kind: Which of its outputs they are: pooled or projected (clip), mean (minilm).
        text_model: The CLIP that computed them, if not ViT-B/32.
        class_set: JSON file of the classes of the rows.
    """
    create_text_encoder(text_encoder, kind=text_kind)  # refuses unknown kinds without loading anything
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output must be a .safetensors file, not {output}.")
    vectors = read_old_bank(source, load_class_set(class_set))
    check_dimension(text_encoder, len(next(iter(vectors.values()))), model=text_model)
    prompts = PromptBank(encoder=GivenVectors(vectors, encoder_id=text_encoder, kind=text_kind))
    prompts(list(vectors))
    prompts.path = Path(output)  # only now, so that saving compares the given vectors with those of the file
    prompts.save()
    print(f"{output}: {len(prompts)} prompts of {prompts.dimension} numbers, {text_encoder} {text_kind}")


if __name__ == "__main__":
    run_script({"network": network, "bank": bank})
