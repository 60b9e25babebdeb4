"""Datastores of images and labels: a folder (`local`) or a PACS over DICOMweb (`dicomweb`); `labels` checks uploads.

To add a datastore: subclass ``AtomicDatastore`` of `local` (or MONAI Label's ``Datastore``) in a module here, and let
``open_datastore`` recognise it by the form of ``--studies``.
"""

from functools import partial

import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX

from custom.anatomy.class_set import ClassSet
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.datastore.local import NiftiDatastore


def open_datastore(studies: str, *, class_set: ClassSet) -> NiftiDatastore | DICOMSeriesDatastore:
    """Open the folder or the DICOMweb service (http:// or https://) that ``--studies`` names.

    MONAI Label's settings apply (``MONAI_LABEL_DICOMWEB_...``).
    """
    if not studies.startswith(("http://", "https://")):
        return NiftiDatastore(studies)
    session = requests.Session()
    # a PACS that never responds would occupy a thread of the server for ever
    session.request = partial(session.request, timeout=settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT)
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
