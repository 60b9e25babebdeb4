"""Checks before every request (host, origin, size, identifiers), users by role, and responses to errors."""

import ipaddress
from collections.abc import Collection
from typing import Annotated
from urllib.parse import urlsplit

import requests
from fastapi import Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from custom.utils.errors import chain
from custom.utils.memory import NotEnoughMemory
from lib.errors import PacsBusy, PacsError, cause_of, message_of
from lib.schemas import UNSAFE_ID, problems

#: Users by MONAI Label's roles; without authentication everyone has all of them.
AnyUser = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
Administrator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]

#: Bytes of a request with a file, and of any other.
MAX_UPLOAD_BYTES = 2 * 2**30
MAX_REQUEST_BYTES = 2**21

#: Paths of requests with files.
_UPLOADS = ("/infer/", "/datastore/", "/session/", "/proxy/dicom/")

_TOO_LARGE = "A request here must have at most {} bytes."
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Guard:
    """ASGI middleware that refuses unknown hosts, pages of other origins, oversized requests and paths in queries.

    Args:
        app: behind it.
        hosts: names under which other computers may reach this server; if empty, only this computer may.
        origins: pages of other hosts that may call this server (``MONAI_LABEL_CORS_ORIGINS``).
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.origins = {origin.rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = MAX_UPLOAD_BYTES if scope["path"].startswith(_UPLOADS) else MAX_REQUEST_BYTES
        try:
            refusal = self._refusal(scope, limit)
        except ValueError:  # of urlsplit
            refusal = refuse(400, "The headers Host and Origin must be addresses.")
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _TOO_LARGE.format(limit))
            return message

        await self.app(scope, counted, send)

    def _refusal(self, scope: Scope, limit: int) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not self.hosts and not _is_loopback(scope):
            return refuse(403, "This server serves its own computer only; see --conf hosts in the documentation.")
        if name not in _LOOPBACK | self.hosts:
            return refuse(403, "This server is not known by that name; see --conf hosts in the documentation.")
        origin = headers.get("origin", "").rstrip("/")
        if origin and urlsplit(origin).netloc != host and origin not in self.origins:
            return refuse(403, "Pages of other sites may not call this server; see MONAI_LABEL_CORS_ORIGINS.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return refuse(413, _TOO_LARGE.format(limit))
        if not scope["path"].startswith(("/proxy/", "/ohif/")):  # queries of a PACS and of the viewer
            for key, value in QueryParams(scope["query_string"]).multi_items():
                if len(value) > 256 or UNSAFE_ID.search(value):
                    return refuse(
                        400,
                        f"{key[:40]} must be an identifier of at most 256 characters, without / and \\, that does not "
                        "begin with a dot.",
                    )
        return None


def _is_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def refuse(status: int, detail: str) -> JSONResponse:
    """An error in the form that every client reads: ``{"detail": message}``."""
    return JSONResponse({"detail": detail}, status_code=status)


def status_and_message(error: BaseException) -> tuple[int, str]:
    """The response to an error: 404 for what does not exist, 413 for what is too large, 502 or 503 for
    a failing or busy PACS, else 400."""
    cause = cause_of(error)
    if isinstance(cause, PacsError):
        return 503 if isinstance(cause, PacsBusy) else 502, message_of(cause)
    if failed := [link for link in chain(error) if isinstance(link, requests.RequestException)]:
        late = isinstance(failed[0], requests.Timeout)
        return 502, f"The PACS does not respond {'in time' if late else 'correctly'}: check it, and this server's log."
    if isinstance(cause, NotEnoughMemory):
        return 413, message_of(cause)
    missing = isinstance(cause, FileNotFoundError | ImageNotFoundException | LabelNotFoundException)
    return 404 if missing else 400, message_of(cause)


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """Respond to an error that a route raised."""
    if isinstance(error, RequestValidationError):
        return refuse(400, problems(error.errors()))
    return refuse(*status_and_message(error))
