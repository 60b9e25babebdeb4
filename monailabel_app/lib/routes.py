"""Routes that answer in place of MONAI Label's: the same addresses, with fields checked and errors in words."""

import asyncio
import contextvars
import json
import logging
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import requests
from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks
from requests_toolbelt import MultipartEncoder

from custom.images import check_image
from lib.dicomweb import PacsError
from lib.fields import (
    BatchFields,
    Fields,
    InferFields,
    RequestError,
    SampleFields,
    SavedLabelFields,
    ScoringFields,
    TrainFields,
    read_fields,
)
from lib.guard import Guard, cause_of, refuse, say_what_is_wrong, words
from lib.ohif_routes import router as ohif
from lib.watching import Cancelled, cancelled

logger = logging.getLogger(__name__)

router = APIRouter()

Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Administrator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]
AnyUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
Json = Annotated[dict[str, Any] | None, Body()]
T = TypeVar("T")

#: Errors whose words go to the client; any other is a fault of ours.
SAID = (ValueError, FileNotFoundError, MONAILabelException, PacsError, requests.RequestException)

#: Most inferences that may wait or run at once; one more is told to come back.
MOST_WAITING = 32

_workers = ThreadPoolExecutor(MOST_WAITING, thread_name_prefix="infer")
_starting = threading.Lock()
_waiting = threading.BoundedSemaphore(MOST_WAITING)


def install(server: FastAPI, *, hosts: list[str]) -> None:
    """Put these routes before MONAI Label's, errors into words, and the guard before all of it.

    MONAI Label builds its app while the server starts, when middleware can no longer be added the usual way.
    """
    server.router.routes[:0] = [*router.routes, *ohif.routes]
    for kind in SAID:
        server.exception_handlers[kind] = say_what_is_wrong
    origins = [str(origin) for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    server.middleware_stack = Guard(server.build_middleware_stack(), hosts=hosts, origins=origins)


@router.get("/info/")
def info(user: AnyUser) -> dict[str, Any]:
    """What the app serves."""
    return dict(app_instance().info())


@router.post("/infer/{model}")
async def infer(
    request: Request,
    background_tasks: BackgroundTasks,
    model: str,
    user: AnyUser,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all", "dicom_seg"] = "all",
) -> Any:
    """Segment what a prompt asks for; stops when the client goes away."""
    app = app_instance()
    if model not in app.models():
        return refuse(404, f"There is no model of that name; there are: {', '.join(app.models())}.")
    if label is not None:
        return refuse(400, "A label cannot be sent with a prompt: this model does not take scribbles.")
    fields = read_fields(InferFields, params)
    fields.asked()
    if not _waiting.acquire(blocking=False):
        return refuse(503, f"{MOST_WAITING} requests are waiting already: try again in a while.")
    try:
        uploaded = await asyncio.to_thread(_keep, file) if file is not None else None
        try:
            source = {"image": image, "session": session_id, "file": uploaded}
            action = app.dicom_seg if output == "dicom_seg" else app.segment
            result = await _while_connected(request, partial(action, model, fields, source))
        finally:
            if uploaded is not None:
                uploaded.unlink(missing_ok=True)
    finally:
        _waiting.release()
    if result is None:
        return Response(status_code=499)
    path, report = result
    background_tasks.add_task(path.unlink, missing_ok=True)
    name = f"{model}-{uuid.uuid4().hex[:12]}{''.join(path.suffixes)}"  # clients save it under this name, in /tmp too
    if output == "json":
        return report
    if output == "image":
        return FileResponse(path, media_type="application/octet-stream", filename=name)
    if output == "dicom_seg":
        return FileResponse(path, media_type="application/dicom", filename=name)
    parts = {
        "params": (None, json.dumps(report), "application/json"),
        "image": (name, path.read_bytes(), "application/octet-stream"),
    }
    message = MultipartEncoder(fields=parts)
    return Response(message.to_string(), media_type=message.content_type)


@router.post("/infer/wsi/{model}", include_in_schema=False)
@router.post("/infer/wsi_v2/{model}", include_in_schema=False)
@router.put("/model/{model}", include_in_schema=False)
@router.delete("/model/{model}", include_in_schema=False)
@router.post("/train/", include_in_schema=False)
@router.post("/scoring/", include_in_schema=False)
@router.post("/reload", include_in_schema=False)
def closed(user: AnyUser) -> Response:
    """What this app does not offer."""
    return refuse(403, "This app does not offer that: models change by training, and are asked through /infer/<model>.")


@router.post("/train/{model}")
def train(model: str, user: Administrator, params: Json = None, enqueue: bool = False) -> Any:
    """Fine-tune a model on the finished labels, in a process of its own."""
    return _start("train", {"model": model}, params, TrainFields, known=app_instance().trainers(), enqueue=enqueue)


@router.post("/batch/infer/{model}")
def batch(
    model: str, user: Administrator, params: Json = None, images: BatchInferImageType = BatchInferImageType.IMAGES_ALL
) -> Any:
    """Answer one prompt for many images, in a process of its own."""
    request = {"model": model, "images": images.value}
    return _start("batch_infer", request, params, BatchFields, known=app_instance().models())


@router.post("/scoring/{method}")
def scoring(method: str, user: Annotator, params: Json = None) -> Any:
    """Score the unlabelled images, in a process of its own."""
    return _start("scoring", {"method": method}, params, ScoringFields, known=app_instance().scorings())


@router.post("/activelearning/{strategy}")
def next_sample(strategy: str, user: AnyUser, params: Json = None) -> Any:
    """The image to label next."""
    known = app_instance().strategies()
    if strategy not in known:
        return refuse(404, f"There is no strategy of that name; there are: {', '.join(known)}.")
    fields = read_fields(SampleFields, params).model_dump(exclude_none=True)
    return activelearning.sample(strategy, fields, user.username if user else None)


@router.put("/datastore/label")
def save_label(
    background_tasks: BackgroundTasks,
    image: str,
    user: Annotator,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: Literal["final", "original", ""] = "final",
) -> Any:
    """Keep a finished label."""
    fields = read_fields(SavedLabelFields, params)
    kept = fields.model_dump_json(exclude_none=True)
    return datastore.save_label(background_tasks, image, kept, tag, label, user.username if user else None)


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(user: Annotator, file: Annotated[UploadFile, File()], image: str = "") -> dict[str, str]:
    """Add an image to the datastore."""
    uploaded = _keep(file)
    try:
        name = (file.filename or "").removesuffix(".gz").removesuffix(".nii")
        return {"image": app_instance().datastore().add_image(image or Path(name).name, str(uploaded), {})}
    finally:
        uploaded.unlink(missing_ok=True)


@router.put("/session/")
def add_session(
    user: AnyUser, files: Annotated[list[UploadFile], File()], expiry: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """Keep an image that is not in the datastore, for a while; archives are not unpacked."""
    if len(files) != 1:
        raise RequestError(f"A session holds one image, not {len(files)}.")
    name, session = app_instance().sessions().add_session(str(_keep(files[0])), expiry)
    return {"session_id": name, "session_info": {"name": name, "expiry": session.expiry}}


def _start(
    method: str, request: dict[str, Any], params: Json, kind: type[Fields], *, known: list[str], enqueue: bool = False
) -> Any:
    name = request.get("model", request.get("method"))
    if name not in known:
        return refuse(404, f"There is nothing of that name here; there are: {', '.join(known) or 'none'}.")
    fields = read_fields(kind, params)
    if isinstance(fields, BatchFields | ScoringFields):
        model = request.get("model") or getattr(fields, "model", "")
        app_instance().check_prompt(model, fields.asked())
    with _starting:  # MONAI Label looks for a process, which a task has only a moment after it was submitted
        if not enqueue and any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks(method)):
            return refuse(429, f"Another {method.replace('_', ' ')} is running: wait for it, or stop it.")
        return AsyncTask.run(method, request, fields.model_dump(exclude_none=True), enqueue=True)[0]


def _keep(file: UploadFile) -> Path:
    """An uploaded image as a temporary file.

    Raises:
        ValueError: not a NIfTI volume.
    """
    name = (file.filename or "").lower()
    suffix = next((suffix for suffix in (".nii.gz", ".nii") if name.endswith(suffix)), None)
    if suffix is None:
        raise RequestError("An image must be a NIfTI file, named .nii or .nii.gz.")
    with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as stream:
        shutil.copyfileobj(file.file, stream)
    path = Path(stream.name)
    try:
        check_image(path)
    except ValueError as error:
        path.unlink()
        raise RequestError(str(error).replace(str(path), "The upload")) from error
    return path


async def _while_connected(request: Request, work: Callable[[], T]) -> T | None:
    """What ``work`` returns, in a thread of its own; None when the client went away, and then the work is stopped."""
    event = threading.Event()
    context = contextvars.copy_context()
    context.run(cancelled.set, event)
    answer: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(_workers, context.run, work)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            event.set()
        result: T = await answer
        return result
    except Cancelled:
        logger.info("A client went away; its inference was stopped.")
        return None
    except Exception as error:
        cause = cause_of(error)
        if isinstance(cause, SAID):
            raise
        logger.exception("An inference failed.")
        raise HTTPException(500, f"The inference failed: {words(cause)}") from error
    finally:
        gone.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
