"""Check exported bundles: what the model zoo asks for, that they work by themselves, and the way to a stranger."""

import logging
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from custom.tools.command_line import run_script
from custom.tools.export.archive import add_large_files, check_zip
from custom.tools.export.round_trip import round_trip
from custom.tools.export.verification import Finding, find, verify_bundle

HOUSE = Path(__file__).resolve().parents[1]


def main(*bundles: str, trip: bool = False, work_dir: str = "runs/verify") -> None:
    """Check exported bundles; prints a line per check and exits with 1 where there is a fault.

    Args:
        bundles: zips that export_bundle.py wrote, or, without --trip, their folders.
        trip: also serve each zip on this computer, download it as others do into an environment of its own (made in
            some minutes, about 2 GB, kept) and compare its inference, evaluation and two steps of training with the
            repository's. The exported folder must lie beside the zip.
        work_dir: for the environment and what the round trip writes.
    """
    if not bundles:
        raise SystemExit("Name at least one bundle: python scripts/verify_bundle.py dist/film_swinunetr_v0.3.0.zip")
    if trip and (folders := [bundle for bundle in bundles if Path(bundle).is_dir()]):
        raise SystemExit(f"A round trip fetches a zip; {folders[0]} is a folder: name the zip beside it.")
    logging.getLogger("monai").setLevel(logging.WARNING)
    logging.getLogger("monai.bundle.scripts").setLevel(logging.WARNING)
    faults = 0
    for bundle in map(Path, bundles):
        print(bundle, flush=True)
        for finding in _findings(bundle, trip=trip, work_dir=Path(work_dir)):
            faults += finding.fault is not None
            sign = "ok     " if finding.fault is None else "FAULT  "
            print(f"  {sign}{finding.check}" + (f"\n         {finding.fault}" if finding.fault else ""), flush=True)
    if faults:
        sys.exit(f"{faults} fault{'s' * (faults > 1)} found.")


def _findings(bundle: Path, *, trip: bool, work_dir: Path) -> Iterator[Finding]:
    if bundle.is_dir():
        yield from verify_bundle(bundle)
        return
    yield (found := find(check_zip, bundle))
    if found.fault is not None:
        return
    faults = 0
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(bundle) as archive:
        archive.extractall(temporary)
        folder = next(Path(temporary).iterdir())
        if (found := find(add_large_files, folder, bundle.parent / folder.name)).fault is not None:
            yield found
            return
        for found in verify_bundle(folder):
            faults += found.fault is not None
            yield found
    if trip and not faults:
        yield from round_trip(bundle, house=HOUSE, work=work_dir)


if __name__ == "__main__":
    run_script(main)
