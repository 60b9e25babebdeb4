"""Where images come from: a folder or a PACS."""

from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX

from custom.anatomy import ClassSet
from lib.dicomweb import DicomWebStudies
from lib.studies import LocalStudies

__all__ = ["DicomWebStudies", "LocalStudies", "open_studies"]


def open_studies(studies: str, *, class_set: ClassSet) -> LocalStudies | DicomWebStudies:
    """Open the datastore that ``--studies`` names, with MONAI Label's settings (``MONAI_LABEL_DICOMWEB_...``).

    Args:
        studies: a folder, or the address of a DICOMweb service (http:// or https://).
        class_set: see ``DicomWebStudies``.
    """
    if not studies.startswith(("http://", "https://")):
        return LocalStudies(studies)
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    client = DICOMwebClientX(
        url=studies.strip().rstrip("/"),
        session=create_session_from_user_pass(user, password) if user and password else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    return DicomWebStudies(
        client,
        class_set=class_set,
        search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
        cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip(),
    )
