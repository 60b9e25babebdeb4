"""The server's first page, and what the viewer's address shows where there is no PACS: plain HTML, nothing to load."""

from html import escape

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from monailabel.interfaces.utils.app import app_instance

from lib.datastore.dicomweb import DICOMSeriesDatastore

router = APIRouter(include_in_schema=False)

#: In place of the viewer, on a folder.
no_viewer = APIRouter(prefix="/ohif", include_in_schema=False)

STYLE = "body{font:16px/1.5 sans-serif;max-width:52em;margin:2em auto;padding:0 1em}td{padding:.1em 1em .1em 0}"

FOLDER = """<p>The studies are a folder of NIfTI images, which <b>3D Slicer</b> shows: in its module <i>MONAI Label</i>
give the server the address <code>{address}</code>. The OHIF viewer needs a PACS with DICOMweb: start the server with
<code>make serve STUDIES=http://127.0.0.1:8042/dicom-web</code>, the address of yours.</p>"""

PACS = """<p>The studies are those of a PACS: open <a href="/ohif/">the OHIF viewer</a>, or in <b>3D Slicer</b> the
module <i>MONAI Label</i>, and give the server the address <code>{address}</code>.</p>"""


@router.get("/")
def home(request: Request) -> HTMLResponse:
    """What this server is, how to use it, and its routes."""
    app = app_instance()
    models = "".join(
        f"<li>{escape(name)} {escape(str(task.version))}, trained on {escape(task.info()['trained_on'])}</li>"
        for name, task in app.models.items()
    )
    return _page(
        f"<h1>{escape(app.name)}</h1><p>{escape(app.description)}</p>{_studies(request)}"
        f"<h2>Models</h2><ul>{models}</ul><h2>Routes</h2><table>{_routes(request.app)}</table>"
        '<p>Their parameters: <a href="/openapi.json">openapi.json</a>; the app: <a href="/info/">info</a>.</p>'
    )


@no_viewer.get("/{path:path}")
def ohif(request: Request, path: str) -> HTMLResponse:
    """Say why there is no viewer, and what to do."""
    return _page(f"<h1>No viewer for a folder</h1>{_studies(request)}")


def _studies(request: Request) -> str:
    has_pacs = isinstance(app_instance().datastore(), DICOMSeriesDatastore)
    return (PACS if has_pacs else FOLDER).format(address=escape(str(request.base_url).rstrip("/")))


def _routes(server: FastAPI) -> str:
    rows = []
    for route in server.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            methods, does = " ".join(sorted(route.methods or ())), route.description.partition("\n")[0]
            rows.append(f"<tr><td>{methods}<td><code>{escape(route.path_format)}</code><td>{escape(does)}")
    return "".join(rows)


def _page(body: str) -> HTMLResponse:
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><title>Deep FiLM</title><style>{STYLE}</style>{body}",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )
