"""Write a data set of synthetic abdominal CT with labels."""

from typing import Any

from rich.progress import Progress

from custom.anatomy.loading import load_class_set
from custom.prompts.resolve import normalise_prompt, resolve_prompt
from custom.tools.command_line import run_script
from custom.tools.phantoms.dataset import write_phantoms


def make_phantoms(
    output_dir: str,
    *,
    training: int = 8,
    validation: int = 2,
    test: int = 2,
    seed: int = 0,
    spacing: float | tuple[float, float, float] = 3.0,
    classes: object = None,
    overwrite: bool = False,
) -> None:
    """Write synthetic abdominal CT with labels, for demonstrations and tests; they show no patient.

    The folder receives images/phantom_0000.nii.gz (HU), labels/phantom_0000.nii.gz and dataset.json, which names the
    classes of each label value and lists the cases. Repeat an interrupted call to continue it.

    Example: python scripts/make_phantoms.py --output_dir data/phantom --training 8 --validation 2 --test 2

    Args:
        seed: Seed of the first case; case i has seed + i.
        spacing: Voxel size in mm, one number or three as 1.5,1.5,5. A case takes about 3 s at 3 mm.
        classes: The labelled classes, as a prompt: "liver, both kidneys"; all when left out.
        overwrite: Replace phantoms of another seed, spacing or version in the folder, which are otherwise refused.
    """
    step: Any = tuple(map(float, (spacing,) * 3 if isinstance(spacing, int | float) else spacing))
    if len(step) != 3:
        raise ValueError(f"spacing must be one number or three, such as 1.5,1.5,5, not {spacing}")
    class_set = load_class_set()
    indices = None if classes is None else resolve_prompt(normalise_prompt(classes), class_set).indices
    with Progress() as progress:
        task = progress.add_task("phantoms", total=training + validation + test)
        path = write_phantoms(
            output_dir,
            seed=seed,
            spacing=step,
            splits={"training": training, "validation": validation, "test": test},
            classes=None if indices is None else [class_set[index].name for index in indices],
            overwrite=overwrite,
            on_case=lambda case: progress.advance(task),
        )
    print(path)


if __name__ == "__main__":
    run_script(make_phantoms)
