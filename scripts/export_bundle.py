"""Export a bundle as a folder and a zip that run without this repository: configs, custom/, requirements, weights."""

import logging
from dataclasses import fields
from pathlib import Path

from fire.decorators import SetParseFn

from custom.bundle.root import own_weights
from custom.tools.command_line import run_script
from custom.tools.export.archive import find_large, zip_bundle
from custom.tools.export.bundle_folder import export_bundle
from custom.tools.export.model_card import write_zoo_entry
from custom.tools.export.statements import Statements
from custom.utils.errors import install_excepthook


def main(
    bundle_dir: str,
    output_dir: str = "dist",
    weights: str | None = None,
    class_set_file: str | None = None,
    name: str | None = None,
    version: str | None = None,
    description: str | None = None,
    authors: str | None = None,
    license: str | None = None,
    data: str | None = None,
    changelog: str | None = None,
    url: str | None = None,
    torchscript: bool = False,
    onnx: bool = False,
    hugging_face: str | None = None,
    overwrite: bool = False,
) -> None:
    """Export a bundle to <output_dir>/<name>/ and <output_dir>/<name>_v<version>.zip.

    Args:
        bundle_dir: such as bundles/film_swinunetr.
        output_dir: receives folder and zip.
        weights: weights to ship; by default models/model.safetensors of the bundle, else models/demo.safetensors.
        class_set_file: the file of weights trained with --class_set_file, which is shipped with them.
        name: of the bundle, for weights of your own, whose card says nothing of the demonstration's.
        version: three numbers, such as 1.0.0.
        description: what the weights are for.
        authors: who made them.
        license: of the weights; the code's is the Apache License 2.0.
        data: what they were trained on, where their header does not say, or more than it says.
        changelog: what is new in this version; by default the date of the weights.
        url: where the exported folder's files will be served; needed for weights over 25 MB, which stay outside the
            zip.
        torchscript: add models/model.ts, in which text stays an input; its logits are compared with the network's.
        onnx: add models/encode.onnx and models/decode.onnx, compared likewise; needs the extra onnx.
        hugging_face: owner/name of the model on the Hugging Face hub: <output_dir>/hf_models/<name>/ becomes its
            entry in the model zoo. The exported folder itself is what the hub gets.
    """
    install_excepthook()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = own_weights(Path(bundle_dir)) if weights is None else Path(weights)
    if source is not None and source.is_file():
        find_large([source], url)  # refused before anything is written
    folder = export_bundle(
        bundle_dir,
        output_dir,
        weights=weights,
        class_set_file=class_set_file,
        statements=Statements(
            name=name,
            version=version,
            description=description,
            authors=authors,
            license=license,
            data=data,
            changelog=changelog,
        ),
        overwrite=overwrite,
        torchscript=torchscript,
        onnx=onnx,
    )
    print(folder)
    print(zip_bundle(folder, url=url))
    if hugging_face is not None:
        print(write_zoo_entry(folder, folder.parent / "hf_models", model_id=hugging_face))


if __name__ == "__main__":
    run_script(SetParseFn(str, *(field.name for field in fields(Statements)))(main))
