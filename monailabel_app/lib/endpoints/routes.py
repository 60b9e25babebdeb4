"""Routes of the app's tasks, at MONAI Label's addresses."""

import asyncio
import json
import logging
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Body, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints import activelearning, login
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import processes, tasks
from requests_toolbelt import MultipartEncoder

from custom.utils.files import content_digest
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.endpoints.datastore import receive_image
from lib.endpoints.datastore import router as store
from lib.endpoints.guard import Administrator, Annotator, AnyUser, Guard, error_response, refuse, status_and_message
from lib.endpoints.home import no_viewer
from lib.endpoints.home import router as home
from lib.endpoints.ohif import router as ohif
from lib.endpoints.proxy import router as proxy
from lib.errors import CLIENT_ERRORS, RequestError, cause_of, without_folders
from lib.infers.cancellation import Cancelled, cancelled
from lib.schemas import BatchFields, Fields, InferFields, SampleFields, ScoringFields, TrainFields, read_fields

logger = logging.getLogger(__name__)

router = APIRouter()

Json = Annotated[dict[str, Any] | None, Body()]
T = TypeVar("T")

#: Routes of MONAI Label that stay.
STOCK_ROUTES = ("/favicon.ico", "/openapi.json")

#: A line of the log or of a traceback in the output of a task.
_LOG_LINE = re.compile(r"\[\d{4}-\d\d-\d\d |Allow Origins|Traceback|  ")

#: Inferences that may wait or run at once.
MAX_WAITING = 32

_workers = ThreadPoolExecutor(MAX_WAITING, thread_name_prefix="infer")
_reporters = ThreadPoolExecutor(2, thread_name_prefix="info")
_starting = threading.Lock()
_running: set[threading.Event] = set()  # of the inferences that wait or run; setting one stops its inference


def install(server: FastAPI, *, hosts: list[str]) -> None:
    """Replace MONAI Label's routes and error handlers by those of this app, behind the guard.

    MONAI Label calls this while the server starts, too late to add middleware in the usual way.
    """
    kept = [route for route in server.router.routes if getattr(route, "path", "") in STOCK_ROUTES]
    authentication = login.router.routes if settings.MONAI_LABEL_AUTH_ENABLE else []
    has_pacs = isinstance(app_instance().datastore(), DICOMSeriesDatastore)
    viewer = ohif.routes if has_pacs else no_viewer.routes
    own = (router.routes, store.routes, proxy.routes, viewer, home.routes, authentication, kept)
    server.router.routes[:] = [route for routes in own for route in routes]
    for kind in (RequestValidationError, *CLIENT_ERRORS):
        server.exception_handlers[kind] = error_response
    origins = [str(origin) for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    for number in (signal.SIGINT, signal.SIGTERM):  # else the server would wait for the inferences to end
        signal.signal(number, partial(_cancel_inferences, signal.getsignal(number)))
    server.middleware_stack = Guard(server.build_middleware_stack(), hosts=hosts, origins=origins)


def _cancel_inferences(handler: Any, number: int, frame: Any) -> None:
    for event in list(_running):
        event.set()
    if callable(handler):
        handler(number, frame)


@router.get("/info/")
async def info(user: AnyUser) -> dict[str, Any]:
    """Describe the app and its tasks, however many requests wait for the PACS."""
    return dict(await asyncio.get_running_loop().run_in_executor(_reporters, app_instance().info))


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
    """Segment the structures of a prompt; stops when the client goes away."""
    app = app_instance()
    _require_known(model, app.models, what="model")
    if label is not None:
        return refuse(400, "A label cannot be sent with a prompt: this model does not take scribbles.")
    fields = read_fields(InferFields, params)
    fields.requested_text()
    if len(_running) >= MAX_WAITING:
        return refuse(503, f"{MAX_WAITING} requests are waiting already: try again in a while.")
    event, uploaded = threading.Event(), None
    _running.add(event)
    try:
        uploaded = await asyncio.to_thread(receive_image, file) if file is not None else None
        source = {"image": image, "session": session_id, "file": uploaded}
        action = app.dicom_seg if output == "dicom_seg" else app.segment
        path, report = await _while_connected(request, event, partial(action, model, fields, source))
    finally:
        event.set()
        _running.discard(event)
        if uploaded is not None:
            uploaded.unlink(missing_ok=True)
    background_tasks.add_task(path.unlink, missing_ok=True)
    name = f"{model}-{uuid.uuid4().hex[:12]}{''.join(path.suffixes)}"  # clients save it under this name, also in /tmp
    if output == "json":
        return report
    if output != "all":
        media_type = "application/dicom" if output == "dicom_seg" else "application/octet-stream"
        return FileResponse(path, media_type=media_type, filename=name)
    content = (name, path.read_bytes(), "application/octet-stream")
    message = MultipartEncoder({"params": (None, json.dumps(report), "application/json"), "image": content})
    return Response(message.to_string(), media_type=message.content_type)


@router.post("/train/{model}")
def train(model: str, user: Administrator, params: Json = None) -> Any:
    """Fine-tune a model on the finished labels, in a process of its own."""
    _require_known(model, app_instance().trainers, what="model")
    return _start("train", {"model": model}, read_fields(TrainFields, params))


@router.post("/batch/infer/{model}")
def batch(
    model: str, user: Administrator, params: Json = None, images: BatchInferImageType = BatchInferImageType.IMAGES_ALL
) -> Any:
    """Segment many images by one prompt, in a process of its own."""
    models = app_instance().models
    _require_known(model, models, what="model")
    fields = read_fields(BatchFields, params)
    models[model].check_prompt(fields.requested_text())
    return _start("batch_infer", {"model": model, "images": images.value}, fields)


@router.post("/scoring/{method}")
def scoring(method: str, user: Annotator, params: Json = None) -> Any:
    """Score the unlabelled images, in a process of its own."""
    _require_known(method, app_instance().scoring_methods, what="method")
    fields, models = read_fields(ScoringFields, params), app_instance().models
    if fields.model not in models:
        raise RequestError(f"model must be one of {', '.join(models)}.")
    models[fields.model].check_prompt(fields.prompt)
    return _start("scoring", {"method": method}, fields)


@router.post("/activelearning/{strategy}")
def next_sample(strategy: str, user: AnyUser, params: Json = None) -> Any:
    """The image to label next."""
    _require_known(strategy, app_instance().strategies, what="strategy")
    fields = read_fields(SampleFields, params).model_dump(exclude_none=True)
    sample = activelearning.sample(strategy, fields, user.username if user else None)
    if "id" in sample:  # a client takes what it has under this name if the checksum is the same
        image = app_instance().datastore().get_image_uri(sample["id"])
        sample["checksum"] = f"SHA256:{content_digest(image)}"
    return sample


def _require_known(name: str, known: Collection[str], *, what: str) -> None:
    if name not in known:
        raise HTTPException(404, f"There is no {what} of that name; there are: {', '.join(known) or 'none'}.")


def _start(method: str, request: dict[str, Any], fields: Fields) -> Any:
    with _starting:  # MONAI Label itself checks for a process, which a task does not have at once
        if _unfinished(method):
            return refuse(429, f"Another {method.replace('_', ' ')} is running: wait for it, or stop it.")
        return _public(AsyncTask.run(method, request, fields.model_dump(exclude_none=True), enqueue=True)[0])


def _public(task: dict[str, Any]) -> dict[str, Any]:
    """A task without its request, which belongs to its client, and without the server's log."""
    shown = {key: task[key] for key in ("id", "status", "start_ts", "end_ts") if key in task}
    details = [without_folders(line) for line in list(task.get("details", ())) if not _LOG_LINE.match(line)]
    return shown | {"details": details}


@router.get("/train/")
@router.get("/scoring/")
@router.get("/batch/infer")
def status(request: Request, user: AnyUser, all: bool = False, check_if_running: bool = False) -> Any:
    """The latest task, or all of them, or the one that runs."""
    method = _method(request)
    found = _unfinished(method) if check_if_running else tasks(method)
    if not found:
        return refuse(404, "There is no such task.")
    return [_public(task) for task in found] if all else _public(found[-1])


@router.delete("/train/")
@router.delete("/scoring/")
@router.delete("/batch/infer")
def stop(request: Request, user: Annotator) -> Any:
    """Stop the task that runs."""
    method = _method(request)
    with _starting:
        if not _unfinished(method):
            return refuse(404, "There is no such task.")
        deadline = time.monotonic() + 5
        while not processes(method) and time.monotonic() < deadline:  # submitted a moment ago
            time.sleep(0.05)
        task = AsyncTask.stop(method)
    return _public(task) if task else refuse(404, "It has just ended.")


def _unfinished(method: str) -> list[dict[str, Any]]:
    return [task for task in tasks(method) if task["status"] in ("SUBMITTED", "RUNNING")]


def _method(request: Request) -> str:
    return request.url.path.strip("/").replace("/", "_")


async def _while_connected(request: Request, event: threading.Event, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread and return its result; if the client goes away, set ``event``, which stops the work."""
    cancelled.set(event)
    future = asyncio.get_running_loop().run_in_executor(_workers, copy_context().run, work)
    try:
        while not (await asyncio.wait({future}, timeout=0.2))[0]:
            if await request.is_disconnected():
                event.set()
        return await future
    except Cancelled:
        logger.info("A client went away; its inference was stopped.")
        raise HTTPException(499, "The inference was stopped.") from None
    except Exception as error:
        status, message = status_and_message(error)
        if not isinstance(cause_of(error), CLIENT_ERRORS):
            logger.exception("An inference failed.")
            status, message = 500, f"The inference failed: {message}"
        raise HTTPException(status, message) from error
