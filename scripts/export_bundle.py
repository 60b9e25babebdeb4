"""Export a bundle as a folder that runs without this repository: configs, custom/, requirements, licence, weights."""

import fire

from custom.export import export_bundle


def main(bundle_dir: str, output_dir: str = "dist", weights: str | None = None, overwrite: bool = False) -> None:
    """Export a bundle.

    Args:
        bundle_dir: such as bundles/film_swinunetr.
        output_dir: the folder <output_dir>/<name of the bundle> is made.
        weights: weights to ship; by default models/model.safetensors of the bundle, else models/demo.safetensors.
        overwrite: replace an earlier export.
    """
    print(export_bundle(bundle_dir, output_dir, weights=weights, overwrite=overwrite))


if __name__ == "__main__":
    fire.Fire(main)
