"""Open the datastore that ``--studies`` names: a folder or a PACS."""

from typing import Any

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from requests.adapters import HTTPAdapter

from custom.anatomy.class_set import ClassSet
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.datastore.local import NiftiDatastore


class _TimeoutAdapter(HTTPAdapter):
    """Gives every request a timeout: a PACS that never responds would occupy a thread of the server for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **keywords: Any) -> requests.Response:
        timeout = keywords.get("timeout") or settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT
        return super().send(request, *args, **keywords | {"timeout": timeout})


def open_datastore(studies: str, *, class_set: ClassSet) -> NiftiDatastore | DICOMSeriesDatastore:
    """Open the datastore that ``--studies`` names, with MONAI Label's settings (``MONAI_LABEL_DICOMWEB_...``).

    Args:
        studies: a folder, or the address of a DICOMweb service (http:// or https://).
        class_set: see ``DICOMSeriesDatastore``.
    """
    if not studies.startswith(("http://", "https://")):
        return NiftiDatastore(studies)
    session = requests.Session()
    session.mount("http://", _TimeoutAdapter())
    session.mount("https://", _TimeoutAdapter())
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if user and password:
        session.auth = (user, password)
    client = DICOMwebClientX(
        url=studies.strip().rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    client.set_http_retry_params(retry=False)  # it would report a failure only after 30 s
    return DICOMSeriesDatastore(
        client,
        class_set=class_set,
        search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip(),
    )
