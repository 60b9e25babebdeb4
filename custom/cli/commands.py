"""What ``python -m custom`` does: a bundle's own inference workflow is run, and what came of it is said."""

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
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
from custom.weights.header import read_header, trained_on


def _find_bundle(bundle: str | None) -> Path:
    root = Path(__file__).resolve().parents[2]  # an exported bundle, or the repository
    candidates = [root, root / "bundles" / "film_swinunetr", Path.cwd()] if bundle is None else [Path(bundle)]
    for folder in candidates:
        if (folder / "configs" / "inference.json").is_file():
            return folder
    raise FileNotFoundError(
        f"A bundle must be a folder with configs/inference.json; none is {' or '.join(map(str, candidates))}: pass "
        "--bundle with the folder of one."
    )


def open_workflow(bundle: str | None, weights: str | None, **settings: str | int | None) -> ConfigWorkflow:
    """A bundle's inference workflow, of which nothing is evaluated yet; says what its weights were trained on.

    Args:
        bundle: its folder; by default what holds this package, film_swinunetr in there, or the working directory.
        weights: by default the bundle's own.
        **settings: of its ``inference.json``; None leaves the one of the bundle.

    Raises:
        FileNotFoundError: no such bundle or weights.
        ValueError: no weights of this project; a text that ``check_text`` refuses.
    """
    folder = _find_bundle(bundle)
    path = own_weights(folder) or folder / "models" / "model.safetensors" if weights is None else Path(weights)
    given = {setting: value for setting, value in settings.items() if value is not None}
    given |= {"bundle_root": str(folder), "weights": str(path)}
    for setting, value in given.items():
        if isinstance(value, str):
            check_text(setting, value)
    print(f"Weights trained on {trained_on(read_header(path))}: {path}", file=sys.stderr)
    config = folder / "configs" / "inference.json"
    if unknown := given.keys() - json.loads(config.read_text(encoding="utf-8")).keys():
        rule = f"The bundle {folder.resolve().name} has no setting {', '.join(sorted(unknown))}"
        raise ValueError(
            f"{rule}: leave it out. Only bundles whose network reads the prompt have prompt_text and group_size."
        )
    logging.getLogger("monai.bundle.workflows").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr):
        return ConfigWorkflow(str(config), workflow_type="inference", **given)


def segment(workflow: ConfigWorkflow, *, as_json: bool, prompt_map: str | None = None) -> int:
    """Run the workflow and print what was found; the exit code is 0, or 1 after an error of the work, which is printed.

    What the workflow refuses before any work is raised.
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
    rows = list(evaluator.report.rows.values())
    output_dir = Path(workflow.parser["output_dir"]).absolute()
    folders = [output_dir / row["output_name"] if row["status"] in ("done", "skipped") else None for row in rows]
    try:
        with redirect_stdout(sys.stderr):
            for row, folder in zip(rows, folders, strict=True):
                if mapped is not None and folder is not None:
                    _map_prompt(workflow, row, folder, mapped)
    except Exception as raised:
        error = error or raised
    results = [row | _read_result(folder) for row, folder in zip(rows, folders, strict=True)]
    if as_json:
        print(json.dumps({"results": results}, indent=2))
    else:
        for result in results:
            if result["summary"] is not None:
                _print_result(result, result["summary"])
    if error is not None:
        print(error_summary(error), file=sys.stderr)
    return 0 if error is None else 1


def explain_prompt(workflow: ConfigWorkflow, *, as_json: bool) -> int:
    """Print how the prompt is understood and what the network reads; the exit code is 0.

    Raises:
        ValueError: it is not understood, or the weights were not trained on a class of it.
    """
    with redirect_stdout(sys.stderr):
        request = workflow.parser.get_parsed_content("prompt_preprocessing")(workflow.parser["prompt"])
    names = {item.index: item.name for item in request.class_set}
    phrases = [{"typed": typed, "classes": [names[i] for i in meant]} for typed, meant in request.resolution.matches]
    decoded = [names[index] for index in sorted(request.resolution.indices)]
    if as_json:
        print(json.dumps({**request.summary(), "phrases": phrases, "decoded": decoded}, indent=2))
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
        {
            "index": item.index,
            "name": item.name,
            "known": item.name in known,
            "synonyms": item.synonyms,
            "aliases": item.aliases,
        }
        for item in class_set
    ]
    if as_json:
        document = {"class_set": class_set.name, "weights": workflow.parser["weights"], "classes": rows}
        print(json.dumps(document, indent=2))
        return 0
    cells = [
        [row["name"], "yes" if row["known"] else "", ", ".join(row["synonyms"]), ", ".join(row["aliases"])]
        for row in rows
    ]
    _print_table(["class", "known", "also called", "other languages, short forms"], cells)
    print(f"These weights know {len(known)} of {len(rows)} classes: {workflow.parser['weights']}")
    return 0


def _check_mapped(workflow: ConfigWorkflow, structure: str) -> int:
    check_text("prompt_map", structure)
    parts = {id: workflow.parser.get_parsed_content(id) for id in ("network", "bank", "class_set")}
    known = workflow.parser.get_parsed_content("trained").trained_classes
    return check_mapped(workflow.parser["prompt"], structure, trained_classes=known, **parts)


def _map_prompt(workflow: ConfigWorkflow, row: Mapping[str, Any], folder: Path, index: int) -> None:
    """Add the prompt map of a request to its result folder."""
    names = ("preprocessing", "network", "bank", "class_set", "inferer", "trained")
    parts = {name: workflow.parser.get_parsed_content(name) for name in names}
    found = map_prompt(
        parts["network"].eval(),
        parts["preprocessing"]({"image": row["image"]})["image"].as_tensor()[None],
        prompt=row["prompt"],
        bank=parts["bank"],
        channel=index - 1,
        name=parts["class_set"][index].name,
        roi_size=parts["inferer"].roi_size,
        overlap=parts["inferer"].overlap,
        voxel_ml=math.prod(parts["trained"].spacing) / 1000,
        progress=True,
    )
    with added_files(folder) as copy:
        write_prompt_map(found, copy)


def _read_result(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"output_dir": None, "files": [], "summary": None}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {"output_dir": str(folder), "files": [str(folder / name) for name in summary["files"]], "summary": summary}


def _print_result(result: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
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
