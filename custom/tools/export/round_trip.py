"""The round trip of a bundle: served, downloaded, installed and run without the repository, with the same results."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
from safetensors.torch import load_file

from custom.bundle.root import BundleError, existing_settings
from custom.tools.export.archive import add_large_files, bundle_of_zip, check_zip
from custom.tools.export.isolated import loaded_logits
from custom.tools.export.verification import Finding, find, verify_bundle
from custom.tools.phantoms.dataset import write_phantoms
from custom.weights.header import read_header
from custom.weights.io import differing_tensors
from custom.weights.volume import training_settings

REPOSITORY = Path(__file__).resolve().parents[3]

#: The bundle ships the vector of its sentence; the repository's run encodes it.
PROMPT = "both kidneys"

#: A training that shows whether results agree, not what is learned.
TWO_STEPS = ("--max_epochs", "1", "--iterations_per_epoch", "2", "--val_interval", "1")

#: The environment variables without those that lead to the repository.
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def verify_archive(archive: Path, *, trip: bool, work: Path) -> Iterator[Finding]:
    """Verify a zip: its form, the bundle in it (``verify_bundle``) and, if ``trip`` and without a fault, a round trip.

    Args:
        archive: what ``custom.tools.export.archive.zip_bundle`` wrote, with the exported folder beside it.
        trip: also make the round trip.
        work: for the files of the round trip.
    """
    yield (found := find(check_zip, archive))
    if found.fault is not None:
        return
    faults = 0
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(archive) as content:
        content.extractall(temporary)
        folder = next(Path(temporary).iterdir())
        if (found := find(add_large_files, folder, archive.parent / folder.name)).fault is not None:
            yield found
            return
        for found in verify_bundle(folder):
            faults += found.fault is not None
            yield found
    if trip and not faults:
        yield from round_trip(archive, work=work)


def round_trip(archive: Path, *, work: Path) -> Iterator[Finding]:
    """Download a zip into a clean environment, and compare the bundle's results there with the repository's.

    Each step is yielded as it ends; a fault ends the round trip.

    Args:
        archive: what ``custom.tools.export.archive.zip_bundle`` wrote, with the exported folder beside it.
        work: for the clean environment, which is kept, and all other files.
    """
    work.mkdir(parents=True, exist_ok=True)
    check = EndToEndCheck(archive, work)
    for step in (check.install, check.download, check.load, check.infer, check.evaluate, check.train):
        yield (found := find(step))
        if found.fault is not None:
            return


class EndToEndCheck:
    """The steps of a round trip, each of which needs those before it; ``python`` runs the downloaded bundle."""

    def __init__(self, archive: Path, work: Path) -> None:
        self.archive, self.name, self.work = archive.resolve(), bundle_of_zip(archive), work.resolve()
        self.fetched = self.work / "downloaded" / self.name
        self.data = self.work / "data"
        self.python = Path()

    def install(self) -> None:
        """Round trip: the bundle's requirements install into an empty environment."""
        with zipfile.ZipFile(self.archive) as archive:
            lists = {name: archive.read(f"{self.name}/{name}") for name in ("requirements.txt", "constraints.txt")}
        environment = self.work / f"venv-{hashlib.sha256(b''.join(lists.values())).hexdigest()[:12]}"
        self.python = environment / "bin" / "python"
        complete = environment / "complete"
        if not complete.is_file():
            _run([sys.executable, "-m", "venv", "--clear", str(environment)], self.work, CLEAN)
            for name, content in lists.items():
                (environment / name).write_bytes(content)
            pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            self._clean(*pip, "-r", "requirements.txt", "-c", "constraints.txt", cwd=environment)
            complete.touch()  # last, so that an interrupted installation is repeated
        self._clean("-m", "pip", "check", cwd=self.work)
        if _attempt([str(self.python), "-c", "import custom"], self.work, CLEAN).returncode == 0:
            raise BundleError(f"the environment {environment} holds a package custom of its own: remove it")

    def download(self) -> None:
        """Round trip: monai.bundle download fetches it over HTTP."""
        for leftover in ("downloaded", "results"):  # MONAI keeps existing files, and an older bundle would be checked
            shutil.rmtree(self.work / leftover, ignore_errors=True)
        write_phantoms(self.data, seed=50, spacing=(6.0, 6.0, 6.0), splits={"training": 1, "validation": 1, "test": 1})
        with _served(self.archive.parent) as address:
            self._clean(
                *("-m", "monai.bundle", "download", "--name", self.name, "--bundle_dir", str(self.fetched.parent)),
                *("--url", f"{address}/{self.archive.name}"),
                cwd=self.work,
            )
        if not (self.fetched / "configs" / "metadata.json").is_file():
            raise BundleError(f"the download made no folder {self.fetched}")
        add_large_files(self.fetched, self.archive.parent / self.name)  # their URLs are not published yet

    def load(self) -> None:
        """Round trip: monai.bundle.load gives a network with the logits that it has in the repository's environment."""
        there = loaded_logits(self.fetched, self.work / "there.pt", python=str(self.python))
        here = loaded_logits(self.fetched, self.work / "here.pt")
        if not there.equal(here):
            raise BundleError(
                f"the logits differ from the repository's by up to {float((there - here).abs().max()):.2g}"
            )

    def infer(self) -> None:
        """Round trip: inference from a prompt gives the masks that it gives in the repository."""
        request = ("--image", str(self.data / "images" / "phantom_0002.nii.gz"), "--prompt", PROMPT)
        there, here = self._both("inference", ["inference"], "infer", *request)
        masks = sorted(path.relative_to(there) for path in there.rglob("*.nii.gz"))
        if not masks:
            raise BundleError(f"inference wrote no masks to {there}")
        for mask in masks:
            if not np.array_equal(nib.load(there / mask).dataobj, nib.load(here / mask).dataobj):
                raise BundleError(f"the mask {mask} differs from the repository's: {there}, {here}")

    def evaluate(self) -> None:
        """Round trip: evaluation gives the scores that it gives in the repository."""
        there, here = self._both("evaluating", ["train", "evaluate"], "evaluate", "--dataset_dir", str(self.data))
        scores = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in (there, here)]
        if scores[0] != scores[1] or not scores[0]:
            raise BundleError(f"the scores differ from the repository's: {there}/scores.json, {here}/scores.json")

    def train(self) -> None:
        """Round trip: two steps of training give the weights that it gives in the repository."""
        config = json.loads((self.fetched / "configs" / "train.json").read_text(encoding="utf-8"))
        header = read_header(self.fetched / "models" / "model.safetensors")
        sizes = [
            part
            for setting, value in existing_settings(config, training_settings(header)).items()
            if value is not None
            for part in (f"--{setting}", _as_argument(value))
        ]
        data = ("--dataset_dir", str(self.data), *TWO_STEPS)
        there, here = self._both("training", ["train"], "train", *data, here_only=sizes)
        if differing := differing_tensors(
            *(load_file(path / "models" / "model.safetensors") for path in (there, here))
        ):
            raise BundleError(
                f"{len(differing)} tensors differ from the repository's, first {differing[0]}: {there}, {here}"
            )

    def _both(
        self, workflow: str, configs: list[str], label: str, *arguments: str, here_only: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Run a workflow of the downloaded bundle and of the repository's; return their two output folders."""
        there, here = (self.work / "results" / label / side for side in ("downloaded", "repository"))
        files = [f"configs/{config}.json" for config in configs]
        config = str(files) if len(files) > 1 else files[0]
        line = ("-m", "monai.bundle", "run", workflow, "--config_file", config, *arguments)
        if workflow == "inference":
            line += ("--overwrite", "True")

        def outputs(folder: Path) -> list[str]:
            training = ["--ckpt_dir", str(folder / "models"), "--resume", "False"] if workflow == "training" else []
            return ["--output_dir", str(folder), *training]

        self._clean(*line, *outputs(there), cwd=self.fetched)
        own = list(here_only)
        if workflow != "training":
            weights = self.work / "results" / "model.safetensors"  # a copy without the shipped vectors beside it
            shutil.copyfile(self.fetched / "models" / "model.safetensors", weights)
            own += ["--weights", str(weights)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        _run([sys.executable, *line, *outputs(here), *own], REPOSITORY / "bundles" / self.name, environment)
        return there, here

    def _clean(self, *arguments: str, cwd: Path) -> None:
        _run([str(self.python), *arguments], cwd, CLEAN)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this computer only; yields its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _attempt(command: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> None:
    done = _attempt(command, cwd, environment)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise BundleError(f"{' '.join(command[:6])} ... ended with {done.returncode}: {last}")
