"""What the viewer reads from the PACS: passed on as it comes, with connections and threads of its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Literal

import requests
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.types import Receive, Scope, Send

from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.datastore.pacs import PacsSession, open_session
from lib.endpoints.guard import AnyUser, refuse

router = APIRouter()

#: Requests to the PACS at once, and those that wait.
CONNECTIONS, MAX_WAITING = 16, 512

#: A response may take so many times the time of one that is read at once.
STREAMED_TIMES = 4

#: The resources of a PACS that a viewer reads; no other can be reached.
_DICOMWEB = re.compile(r"(studies|series|instances)(/[\w.\-,]+)*/?")

_workers = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="viewer")
_free = asyncio.Semaphore(CONNECTIONS)
_waiting = 0


@cache
def _session() -> PacsSession:
    return open_session(settings.MONAI_LABEL_STUDIES, connections=CONNECTIONS, streamed_times=STREAMED_TIMES)


@router.get("/proxy/dicom/{service}/{path:path}")
async def proxy(request: Request, service: Literal["qido", "wado"], path: str, user: AnyUser) -> Response:
    """Read from the PACS for the viewer."""
    global _waiting
    if not isinstance(app_instance().datastore(), DICOMSeriesDatastore):
        return refuse(404, "There is no PACS: the studies are a folder.")
    if not _DICOMWEB.fullmatch(path) or ".." in path:
        return refuse(403, "Only studies, series and instances of the PACS can be read.")
    if _waiting >= MAX_WAITING:
        return _busy()
    is_search = service == "qido" and not path.rstrip("/").endswith("metadata")
    prefix = settings.MONAI_LABEL_QIDO_PREFIX if is_search else settings.MONAI_LABEL_WADO_PREFIX
    address = "/".join(part.strip("/") for part in (settings.MONAI_LABEL_STUDIES, prefix or "", path) if part)
    get = partial(_session().get, address, params=request.query_params.multi_items(), stream=True)
    _waiting += 1
    try:
        async with asyncio.timeout(settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT):
            await _free.acquire()
    except TimeoutError:
        return _busy()
    finally:
        _waiting -= 1
    try:
        response = await asyncio.get_running_loop().run_in_executor(_workers, get)
    except BaseException:
        _free.release()
        raise
    return _Passing(response)


def _busy() -> Response:
    return refuse(503, "The PACS is slow, and too many requests of viewers wait for it. Try again in a while.")


class _Passing(StreamingResponse):
    """A response of the PACS, passed on; ended when the client goes away."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(self._pieces(), response.status_code, media_type=response.headers.get("content-type"))
        self._response = response

    async def _pieces(self) -> AsyncIterator[bytes]:
        pieces, loop = self._response.iter_content(2**16), asyncio.get_running_loop()
        while piece := await loop.run_in_executor(_workers, next, pieces, b""):
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _free.release()
            self._response.raw.abort()
