"""One entry for the command line: ``python -m custom segment ct.nii.gz "liver and both kidneys" -o out``.

Here stand the commands as Fire shows them, and the exit codes; `custom.cli.commands` does the work. It is imported
once the
whole command line is understood, for that takes seconds.
"""

import os
import sys
from collections.abc import Callable, Sequence

from custom.cli.arguments import parse_arguments
from custom.utils.errors import error_summary, root_cause

#: Exit codes.
FAILED, REFUSED, INTERRUPTED = 1, 2, 130


def segment(
    image: str,
    prompt: str,
    *,
    output_dir: str = "out",
    bundle: str | None = None,
    weights: str | None = None,
    prompt_text: str | None = None,
    formats: str | None = None,
    entropy: bool = False,
    prompt_map: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    json: bool = False,
) -> int:
    """Segment a CT: write a mask for each structure that a prompt asks for, and print their volumes.

    Example: python -m custom segment ct.nii.gz "liver and both kidneys" -o out

    Exit codes: 0 all is well; 1 an image could not be segmented or an answer not written; 2 refused before any work: a
    prompt that is not understood, a missing file, a wrong option; 130 Ctrl-C.

    All other settings: python -m monai.bundle run inference (docs/inference.md of the repository).

    Args:
        image: NIfTI or NRRD file, folder with a DICOM series, folder of images, or several with commas between.
        prompt: What to segment, in quotes. See explain-prompt and list-classes.
        output_dir: Folder for the answers, one folder per image; also -o.
        bundle: Folder of a bundle; by default the exported bundle that this program is part of, else
            bundles/film_swinunetr of the repository, else the current folder.
        weights: By default models/model.safetensors of the bundle, else its models/demo.safetensors.
        prompt_text: What the network reads: canonical (the default), or raw, which is your own words.
        formats: One or several of nifti (the default), dicom_seg, rtstruct, with commas between.
        entropy: Also write entropy.nii.gz, how unsure the network is at each voxel.
        prompt_map: A structure, such as liver: also write a chart, and its figures as JSON, of what each word of the
            prompt, as you typed it, does to it. Decodes the image again for each word.
        overwrite: Replace answers to other questions in the folder, and answer anew what is answered.
        device: Such as cpu or cuda:0; by default the GPU, where there is one.
        json: Print one JSON document instead, with the content of summary.json of each image.
    """
    from custom.cli import commands as cli

    settings: dict[str, str | bool | None] = {
        **{"image": image, "prompt": prompt, "output_dir": output_dir, "overwrite": overwrite, "entropy": entropy},
        **{"prompt_text": prompt_text, "formats": formats},
        "device": device,
    }
    return cli.segment(cli.open_workflow(bundle, weights, **settings), as_json=json, prompt_map=prompt_map)


def explain_prompt(prompt: str, *, bundle: str | None = None, weights: str | None = None, json: bool = False) -> int:
    """Say how a prompt is read, and what the network is asked; no image is needed.

    Example: python -m custom explain-prompt "liver and both kidneys"

    Exit codes: 0 understood; 2 not understood, or not known to the weights.

    Args:
        prompt: What to segment, in quotes.
        bundle: As of segment.
        weights: As of segment; they decide which classes can be had.
        json: Print one JSON document instead.
    """
    from custom.cli import commands as cli

    return cli.explain_prompt(cli.open_workflow(bundle, weights, prompt=prompt), as_json=json)


def list_classes(*, bundle: str | None = None, weights: str | None = None, json: bool = False) -> int:
    """List the classes, whether the weights know them, and the names that a prompt may call them by.

    Args:
        bundle: As of segment.
        weights: As of segment; their class set is listed.
        json: Print one JSON document instead.
    """
    from custom.cli import commands as cli

    return cli.list_classes(cli.open_workflow(bundle, weights), as_json=json)


COMMANDS: dict[str, Callable[..., int]] = {
    "segment": segment,
    "explain-prompt": explain_prompt,
    "list-classes": list_classes,
}


def main(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name, and return the exit code."""
    try:
        return parse_arguments(arguments, COMMANDS, program="python -m custom")()
    except BrokenPipeError:  # what reads us, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        print(error_summary(error), file=sys.stderr)
        from custom.outputs.result_folder import OutputError
        from custom.text.encoders import TextEncoderUnavailable

        refusals = (ValueError, OSError, OutputError, TextEncoderUnavailable)
        return REFUSED if isinstance(root_cause(error), refusals) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
