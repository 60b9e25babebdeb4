"""``python -m custom segment ct.nii.gz "liver and both kidneys" -o out``: arguments, help and exit codes.

``custom.cli.commands`` does the work. It takes seconds to import, so it is imported once the arguments are valid.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from custom.utils.errors import error_summary, root_cause

#: Exit codes.
FAILED, REFUSED, INTERRUPTED = 1, 2, 130

SEGMENT = """\
Segment a CT: write a mask for each structure that a prompt names, and print their volumes.

Example: python -m custom segment ct.nii.gz "liver and both kidneys" -o out

Exit codes: 0 all is well; 1 an image could not be segmented or a result not written;
2 refused before any work: a prompt that is not understood, a missing file, a wrong option;
130 Ctrl-C.

All other settings: python -m monai.bundle run inference (docs/inference.md of the repository)."""

EXPLAIN_PROMPT = """\
Show how a prompt is read, and which sentences the network gets; no image is needed.

Example: python -m custom explain-prompt "liver and both kidneys"

Exit codes: 0 understood; 2 not understood, or not known to the weights."""

LIST_CLASSES = "List the classes, whether the weights know them, and the names that a prompt may use for them."


class Parser(argparse.ArgumentParser):
    """Adds a hint to every error."""

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}\nA prompt of several words stands in quotes. Each command has its --help.")


def boolean(text: str) -> bool:
    """Value of a flag, which may also be written out, ``--json True``, as for the bundle's own commands."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(
            f"must be True or False, not {text!r}; or write it at the end, without a value"
        )
    return text == "True"


def make_parser() -> Parser:
    """The parser of all commands."""
    flag: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "type": boolean, "metavar": "True"}
    common = Parser(add_help=False)
    option = common.add_argument
    option(
        "--bundle",
        help="Folder of a bundle; by default the exported bundle that this program is part of, else "
        "bundles/film_swinunetr of the repository, else the current folder.",
    )
    option("--weights", help="By default models/model.safetensors of the bundle, else its models/demo.safetensors.")
    option("--json", **flag, help="Print one JSON document instead.")

    parser = Parser(prog="python -m custom", description="Text-guided segmentation of CT.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add_command(name: str, description: str) -> Any:
        settings: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        summary = description.partition("\n")[0]
        return commands.add_parser(name, help=summary, description=description, parents=[common], **settings)

    segment = add_command("segment", SEGMENT)
    option = segment.add_argument
    option(
        "image",
        help="NIfTI, NRRD or MetaImage file, folder with a DICOM series or images, or several with commas between.",
    )
    option("prompt", help="What to segment, in quotes. See explain-prompt and list-classes.")
    option("-o", "--output_dir", default="out", help='Folder for the results, one folder per image; by default "out".')
    option("--prompt_text", help="What the network reads: canonical (the default), or raw, which is your own words.")
    option(
        "--group_size",
        type=int,
        help="Structures that one sentence to the network names; by default 1, which makes a mask independent of what "
        "else is requested. More is faster.",
    )
    option("--formats", help="One or several of nifti (the default), dicom_seg, rtstruct, with commas between.")
    option("--entropy", **flag, help="Also write entropy.nii.gz: the network's uncertainty at each voxel.")
    option(
        "--prompt_map",
        metavar="STRUCTURE",
        help="Such as liver: also write a chart, and its figures as JSON, of the effect that each word of the prompt, "
        "as you typed it, has on this structure. Decodes the image again for each word.",
    )
    option("--overwrite", **flag, help="Replace results of other prompts and settings, and segment anew what is done.")
    option(
        "--check_intensity",
        type=boolean,
        metavar="False",
        help="False segments an image, too, whose intensities do not look like those of its modality.",
    )
    option("--device", help="Such as cpu or cuda:0; by default the GPU, where there is one.")
    add_command("explain-prompt", EXPLAIN_PROMPT).add_argument("prompt", help="What to segment, in quotes.")
    add_command("list-classes", LIST_CLASSES)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name, and return the exit code; help and wrong arguments raise SystemExit."""
    parser = make_parser()
    if not arguments:
        parser.print_help()
        return 0
    settings = vars(parser.parse_args(arguments))
    command, as_json, prompt_map = settings.pop("command"), settings.pop("json"), settings.pop("prompt_map", None)
    try:
        from custom.cli import commands

        workflow = commands.open_workflow(**settings)
        if command == "segment":
            return commands.segment(workflow, as_json=as_json, prompt_map=prompt_map)
        work = commands.explain_prompt if command == "explain-prompt" else commands.list_classes
        return work(workflow, as_json=as_json)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
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
