"""The files of OHIF: MONAI Label's build of the viewer with this app's configuration and panel.

They replace MONAI Label's routes, which return the viewer's page in place of missing scripts and find no file in
subfolders.
"""

from pathlib import Path, PurePosixPath

import monailabel
from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

BUILD = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"
VIEWER = {file.relative_to(BUILD).as_posix() for file in BUILD.rglob("*") if file.is_file()}
STATIC = Path(__file__).parent / "static"
PANEL = ("panel.js", "labelmap.js", "nifti.js", "nrrd.js", "panel.css")
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css"}  # a browser refuses a module of another type

#: The viewer may contact only this server; its build would load a font from Google.
POLICY = "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"

router = APIRouter(prefix="/ohif", include_in_schema=False)


@router.get("/app-config.js")
@router.get("/deep-film/{name}")
async def panel(name: str = "app-config.js") -> FileResponse:
    """OHIF's settings, which load the panel, or a file of the panel.

    The browser revalidates it each time, since it changes with the server's version.
    """
    if name not in ("app-config.js", *PANEL):
        raise HTTPException(404, f"The panel's files are {', '.join(PANEL)}; {name!r} is none of them.")
    file = STATIC / name
    return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers={"Cache-Control": "no-cache"})


@router.get("/{path:path}")
async def viewer(path: str) -> FileResponse:
    """A file of the viewer, or its page for its own paths, such as ``monai-label?StudyInstanceUIDs=...``."""
    suffix = PurePosixPath(path).suffix
    if path in VIEWER:
        return FileResponse(BUILD / path, media_type=MEDIA_TYPES.get(suffix))
    if suffix in {".js", ".css", ".map"}:
        raise HTTPException(404, f"The viewer has no file {path!r}.")
    return FileResponse(BUILD / "index.html", headers={"Cache-Control": "no-cache", "Content-Security-Policy": POLICY})
