"""Datastores of images and labels: a folder (`local`) or a PACS over DICOMweb (`dicomweb`, whose requests `pacs`
sends); `labels` checks uploads.

To add a datastore: subclass ``AtomicDatastore`` of `local` (or MONAI Label's ``Datastore``) in a module here, and let
``open_datastore`` recognise it by the form of ``--studies``.
"""

from monailabel.config import settings

from custom.anatomy.class_set import ClassSet
from lib.datastore.dicomweb import DICOMSeriesDatastore
from lib.datastore.local import NiftiDatastore
from lib.datastore.pacs import open_client


def open_datastore(studies: str, *, class_set: ClassSet) -> NiftiDatastore | DICOMSeriesDatastore:
    """Open the folder or the DICOMweb service (http:// or https://) that ``--studies`` names.

    MONAI Label's settings apply (``MONAI_LABEL_DICOMWEB_...``).
    """
    if not studies.startswith(("http://", "https://")):
        return NiftiDatastore(studies, class_set=class_set)
    return DICOMSeriesDatastore(
        open_client(studies.strip().rstrip("/")),
        class_set=class_set,
        search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip(),
    )
