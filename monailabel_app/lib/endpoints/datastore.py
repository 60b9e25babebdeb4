"""Routes of the datastore and of sessions, at MONAI Label's addresses."""

import re
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import datastore as stock
from monailabel.interfaces.utils.app import app_instance

from custom.imageio.checks import check_image
from custom.imageio.readers import read_voxels
from custom.utils.memory import NotEnoughMemory
from lib.datastore.local import EXTENSIONS
from lib.endpoints.guard import Administrator, Annotator, AnyUser
from lib.errors import RequestError
from lib.schemas import SavedLabelFields, read_fields
from lib.temporary import temporary_file

router = APIRouter()

#: MONAI Label's own routes that are kept.
_STOCK = ("/datastore/image/info", "/datastore/label/info")
router.routes += [route for route in stock.router.routes if route.path in _STOCK and "GET" in route.methods]


@router.get("/datastore/")
def datastore(user: AnyUser, output: Literal["stats", "all"] = "stats") -> dict[str, Any]:
    """Numbers of images and labels, or the whole record."""
    store = app_instance().datastore()
    return dict(store.json() if output == "all" else store.status())


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def image(image: str, user: AnyUser) -> FileResponse:
    """An image as a NIfTI file."""
    return _file(app_instance().datastore().get_image_uri(image))


@router.api_route("/datastore/label", methods=["GET", "HEAD"])
def label(label: str, tag: str, user: AnyUser) -> FileResponse:
    """A label as a NIfTI file."""
    return _file(app_instance().datastore().get_label_uri(label, tag))


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(id: str, user: Administrator) -> dict[str, Any]:
    """Remove an image and its labels."""
    app_instance().datastore().remove_image(id)
    return {}


@router.delete("/datastore/label")
def remove_label(id: str, tag: str, user: Administrator) -> dict[str, Any]:
    """Remove a label."""
    app_instance().datastore().remove_label(id, tag)
    return {}


@router.put("/datastore/label")
def save_label(
    image: str,
    user: Annotator,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: Literal["final", "original", ""] = "final",
) -> dict[str, str]:
    """Save a label."""
    info = read_fields(SavedLabelFields, params).model_dump(exclude_none=True)
    if settings.MONAI_LABEL_AUTH_ENABLE and not info["annotator"]:
        info["annotator"] = user.name or user.username
    path = _receive(label, (*EXTENSIONS, ".nrrd"))
    try:
        return {"image": image, "label": app_instance().datastore().save_label(image, str(path), tag or "final", info)}
    finally:
        path.unlink()


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(user: Annotator, file: Annotated[UploadFile, File()], image: str = "") -> dict[str, str]:
    """Add an image to the datastore."""
    store = app_instance().datastore()
    name = image or re.sub(r"\.nii(\.gz)?$", "", Path(file.filename or "").name, flags=re.IGNORECASE)
    if name in store.list_images():
        raise RequestError("There is an image of that id: choose another.")
    uploaded = receive_image(file)
    try:
        return {"image": store.add_image(name, str(uploaded), {})}
    finally:
        uploaded.unlink()


@router.put("/session/")
def add_session(
    user: AnyUser, files: Annotated[list[UploadFile], File()], expiry: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """Keep an image that is not in the datastore for a while; archives are not unpacked."""
    if len(files) != 1:
        raise RequestError(f"A session holds one image, not {len(files)}.")
    name, found = app_instance().sessions().add_session(str(receive_image(files[0])), expiry)
    return {"session_id": name, "session_info": {"name": name, "expiry": found.expiry}}


@router.get("/session/{name}")
def session(name: str, user: AnyUser) -> dict[str, Any]:
    """Report a session that has not expired."""
    return {"name": name, "expiry": app_instance().session(name).expiry}


@router.delete("/session/{name}")
def remove_session(name: str, user: AnyUser) -> dict[str, Any]:
    """Remove a session and its image."""
    app_instance().session(name)
    app_instance().sessions().remove_session(name)
    return {}


def receive_image(file: UploadFile) -> Path:
    """Write an uploaded image to a temporary file.

    Raises:
        RequestError: not a NIfTI volume, or one that is damaged or cut short.
    """
    path = _receive(file, EXTENSIONS)
    try:
        read_voxels(check_image(path))
    except (ValueError, NotEnoughMemory) as error:
        path.unlink()
        message = str(error).replace(f"{path}", "The upload" if str(error).startswith(str(path)) else "the upload")
        raise (RequestError if isinstance(error, ValueError) else NotEnoughMemory)(message) from error
    except BaseException:
        path.unlink()
        raise
    return path


def _file(uri: str) -> FileResponse:
    path = Path(uri)
    if not path.is_file():
        raise FileNotFoundError("There is no such file in the datastore.")
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


def _receive(file: UploadFile, suffixes: tuple[str, ...]) -> Path:
    name = (file.filename or "").lower()
    suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), None)
    if suffix is None:
        raise RequestError(f"A file must be named {' or '.join(suffixes)}.")
    with temporary_file(suffix) as path, path.open("wb") as stream:
        shutil.copyfileobj(file.file, stream)
    return path
