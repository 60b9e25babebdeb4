"""Where images come from: a folder or a PACS."""

from typing import Any

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from requests.adapters import HTTPAdapter

from custom.anatomy.class_set import ClassSet
from lib.datastore.dicomweb import DicomWebStudies
from lib.datastore.local import LocalStudies

__all__ = ["DicomWebStudies", "LocalStudies", "open_studies"]


class _Impatient(HTTPAdapter):
    """Gives up on a PACS that says nothing for a while, which else would hold a thread of the server for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **keywords: Any) -> requests.Response:
        limit = settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT
        return super().send(request, *args, **keywords | {"timeout": keywords.get("timeout") or limit})


def open_studies(studies: str, *, class_set: ClassSet) -> LocalStudies | DicomWebStudies:
    """Open the datastore that ``--studies`` names, with MONAI Label's settings (``MONAI_LABEL_DICOMWEB_...``).

    Args:
        studies: a folder, or the address of a DICOMweb service (http:// or https://).
        class_set: see ``DicomWebStudies``.
    """
    if not studies.startswith(("http://", "https://")):
        return LocalStudies(studies)
    session = requests.Session()
    session.mount("http://", _Impatient())
    session.mount("https://", _Impatient())
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
    client.set_http_retry_params(retry=False)  # else 30 s of attempts before anybody hears of a fault
    return DicomWebStudies(
        client,
        class_set=class_set,
        search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip(),
    )
