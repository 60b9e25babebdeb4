"""What ``python -m custom`` does: a bundle's own inference workflow is run, and what came of it is said."""

import json
import logging
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from custom.bundle.overrides import check_text
from custom.bundle.root import own_weights
from custom.outputs.result_folder import added_files
from custom.utils.errors import error_summary
from custom.visualize.prompt_map import check_mapped, map_prompt, write_prompt_map
from custom.weights.header import read_header

#: What holds this package: an exported bundle, or the repository.
PACKAGE_DIR = Path(__file__).resolve().parents[2]


def find_bundle(bundle: str | None = None) -> Path:
    """Folder of the bundle to run: ``bundle`` where given, else the first of these that is one.

    The folder that holds this package (an exported bundle), its ``bundles/film_swinunetr`` (the repository), the
    working directory.

    Raises:
        FileNotFoundError: there is none.
    """
    candidates = (
        [PACKAGE_DIR, PACKAGE_DIR / "bundles" / "film_swinunetr", Path.cwd()] if bundle is None else [Path(bundle)]
    )
    for folder in candidates:
        if (folder / "configs" / "inference.json").is_file():
            return folder
    raise FileNotFoundError(
        f"A bundle must be a folder with configs/inference.json; none is {' or '.join(map(str, candidates))}: pass "
        "--bundle with the folder of one."
    )


def open_workflow(bundle: str | None, weights: str | None, **settings: str | bool | None) -> ConfigWorkflow:
    """A bundle's inference workflow, of which nothing is evaluated yet.

    Weights that were trained on phantoms are said to be so.

    Args:
        bundle: see ``find_bundle``.
        weights: by default the bundle's own.
        **settings: of its ``inference.json``; None leaves the one of the bundle.

    Raises:
        FileNotFoundError: no such bundle or weights.
        ValueError: no weights of this project; a text that ``check_text`` refuses.
    """
    folder = find_bundle(bundle)
    path = own_weights(folder) or folder / "models" / "model.safetensors" if weights is None else Path(weights)
    given = {setting: value for setting, value in settings.items() if value is not None}
    given |= {"bundle_root": str(folder), "weights": str(path)}
    for setting, value in given.items():
        if not isinstance(value, bool):
            check_text(setting, value)
    if read_header(path)["provenance"].get("data", {}).get("name") == "phantom":
        print(f"Demonstration weights, trained on synthetic phantoms, not for patients: {path}", file=sys.stderr)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr):
        return ConfigWorkflow(str(folder / "configs" / "inference.json"), workflow_type="inference", **given)


def segment(workflow: ConfigWorkflow, *, as_json: bool, prompt_map: str | None = None) -> int:
    """Run the workflow and print what was found; the exit code is 0, or 1 after an error of the work, which is printed.

    Raises:
        Exception: whatever the workflow refuses before any work.
    """
    if not as_json:
        logging.getLogger().setLevel(logging.WARNING)  # its messages are printed below
    with redirect_stdout(sys.stderr):
        workflow.initialize()
        workflow.parser.get_parsed_content("checks")
        mapped = None if prompt_map is None else _check_mapped(workflow, prompt_map)
        [prompt] = {request.prompt for request in workflow.parser.get_parsed_content("requests")}
        evaluator = workflow.evaluator
    if not as_json:
        print(*prompt.explain(), sep="\n")
    error = None
    try:
        with redirect_stdout(sys.stderr):
            workflow.run()
            workflow.finalize()
    except Exception as raised:
        error = raised
    results = [_result(row, Path(workflow.parser["output_dir"])) for row in evaluator.report.rows.values()]
    try:
        with redirect_stdout(sys.stderr):
            for result in results:
                if mapped is not None and result["output_dir"] is not None:
                    _map_prompt(workflow, result, mapped)
                    result |= _read_result(Path(result["output_dir"]))
    except Exception as raised:
        error = error or raised
    if as_json:
        _print_json({"results": results})
    else:
        for result in results:
            _print_result(result)
    if error is None:
        return 0
    print(error_summary(error), file=sys.stderr)
    return 1


def explain_prompt(workflow: ConfigWorkflow, *, as_json: bool) -> int:
    """Print how the prompt is understood and what the network reads; the exit code is 0.

    Raises:
        PromptError: it is not understood.
        ValueError: the weights were not trained on a class of the prompt.
    """
    with redirect_stdout(sys.stderr):
        request = workflow.parser.get_parsed_content("prompt_preprocessing")(workflow.parser["prompt"])

    def names(indices: Iterable[int]) -> list[str]:
        return [request.class_set[index].name for index in indices]

    phrases = [{"typed": typed, "classes": names(meant)} for typed, meant in request.resolution.matches]
    decoded = names(sorted(request.resolution.indices))
    if as_json:
        _print_json({**request.summary(), "phrases": phrases, "decoded": decoded})
        return 0
    print(*request.explain(), sep="\n")
    _print_table(["you wrote", "classes"], [[row["typed"], ", ".join(row["classes"])] for row in phrases])
    print(f"Decoded: {', '.join(decoded)}.")
    if request.prompt_text == "unread":
        print("The network does not read the prompt, which chooses the masks to write.")
    else:
        print(*(f"To the network: {sentence}" for sentence in request.sentences), sep="\n")
    return 0


def list_classes(workflow: ConfigWorkflow, *, as_json: bool) -> int:
    """Print the classes of the workflow's weights, and which of them these know; the exit code is 0."""
    with redirect_stdout(sys.stderr):
        class_set, trained = (workflow.parser.get_parsed_content(id) for id in ("class_set", "trained"))
    known = trained.trained_classes
    rows = [
        {"index": item.index, "name": item.name, "known": item.name in known, "synonyms": item.synonyms}
        for item in class_set
    ]
    if as_json:
        _print_json({"class_set": class_set.name, "weights": workflow.parser["weights"], "classes": rows})
        return 0
    _print_table(
        ["class", "known", "also called"],
        [[row["name"], "yes" if row["known"] else "", ", ".join(row["synonyms"])] for row in rows],
    )
    print(f"These weights know {len(known)} of {len(rows)} classes: {workflow.parser['weights']}")
    return 0


def _check_mapped(workflow: ConfigWorkflow, structure: str) -> int:
    check_text("prompt_map", structure)
    parts = {id: workflow.parser.get_parsed_content(id) for id in ("network", "bank", "class_set")}
    known = workflow.parser.get_parsed_content("trained").trained_classes
    return check_mapped(workflow.parser["prompt"], structure, trained_classes=known, **parts)


def _map_prompt(workflow: ConfigWorkflow, result: dict[str, Any], index: int) -> None:
    """Add the prompt map of its image to one result."""
    names = ("preprocessing", "network", "bank", "class_set", "inferer", "trained")
    parts = {name: workflow.parser.get_parsed_content(name) for name in names}
    image = parts["preprocessing"]({"image": result["image"]})["image"]
    found = map_prompt(
        parts["network"].eval(),
        image.as_tensor()[None],
        prompt=result["prompt"],
        bank=parts["bank"],
        channel=index - 1,
        name=parts["class_set"][index].name,
        roi_size=parts["inferer"].roi_size,
        overlap=parts["inferer"].overlap,
        voxel_ml=math.prod(parts["trained"].spacing) / 1000,
        progress=True,
    )
    with added_files(result["output_dir"]) as folder:
        write_prompt_map(found, folder)


def _result(row: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """The row of a request, with the summary and the paths of its files where it has a result."""
    folder = output_dir.absolute() / row["output_name"]
    if row["status"] not in ("done", "skipped"):
        return row | {"output_dir": None, "files": [], "summary": None}
    return row | _read_result(folder)


def _read_result(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {"output_dir": str(folder), "files": [str(folder / name) for name in summary["files"]], "summary": summary}


def _print_result(result: dict[str, Any]) -> None:
    summary = result["summary"]
    if summary is None:
        return
    print(f"\n{result['image']} ({result['status']})")
    if summary["found"]:
        rows = [[row["title"], f"{row['volume_ml']:.1f}", row["mask"]] for row in summary["classes"] if row["voxels"]]
        _print_table(["structure", Column("volume (ml)", justify="right"), "mask"], rows)
    if summary["not_found"]:
        print(f"Not found: {', '.join(summary['not_found'])}.")
    print(f"Picture: {result['output_dir']}/preview.png\nAll files: {result['output_dir']}")
    for path in result["files"]:
        if Path(path).name.startswith("prompt_map") and path.endswith(".png"):
            print(f"What each word does: {path}")


def _print_table(header: Sequence[str | Column], rows: Sequence[Sequence[str | None]]) -> None:
    table = Table(*header, box=SIMPLE)
    for row in rows:
        table.add_row(*(Text(cell or "") for cell in row))
    Console().print(table)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))
