"""Volumes and masks on disk: NIfTI, NRRD, DICOM series, DICOM-SEG, RTSTRUCT."""
