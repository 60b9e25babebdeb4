"""The files of OHIF: MONAI Label's build of the viewer, with our configuration and our panel in it.

MONAI Label answers every unknown path with the viewer's page, a missing script too, and finds no file below the
viewer's top folder. These routes stand before its own.
"""

from pathlib import Path, PurePosixPath

import monailabel
from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

BUILD = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"
VIEWER = {file.relative_to(BUILD).as_posix() for file in BUILD.rglob("*") if file.is_file()}
OURS = Path(__file__).parent / "static"
PANEL = ("panel.js", "labelmap.js", "nrrd.js", "panel.css")
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}  # a browser refuses a module of another type

#: The viewer talks to this server and to nobody else; its build asks for a font from Google.
POLICY = "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"

router = APIRouter(prefix="/ohif", include_in_schema=False)


@router.get("/app-config.js")
async def configuration() -> FileResponse:
    """OHIF's settings, which load our panel."""
    return _ours("app-config.js")


@router.get("/deep-film/{name}")
async def panel(name: str) -> FileResponse:
    """One of the panel's files."""
    if name not in PANEL:
        raise HTTPException(404, f"The panel's files are {', '.join(PANEL)}; {name!r} is none of them.")
    return _ours(name)


@router.get("/{path:path}")
async def viewer(path: str) -> FileResponse:
    """A file of the viewer; its page for the paths that are its own, such as ``monai-label?StudyInstanceUIDs=...``."""
    suffix = PurePosixPath(path).suffix
    if path in VIEWER:
        return FileResponse(BUILD / path, media_type=MEDIA_TYPES.get(suffix))
    if suffix in {".js", ".css", ".map"}:
        raise HTTPException(404, f"The viewer has no file {path!r}.")
    return FileResponse(BUILD / "index.html", headers={"Cache-Control": "no-cache", "Content-Security-Policy": POLICY})


def _ours(name: str) -> FileResponse:
    """A file of ours, which the browser asks for again each time: it changes with the version of the server."""
    file = OURS / name
    return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers={"Cache-Control": "no-cache"})
