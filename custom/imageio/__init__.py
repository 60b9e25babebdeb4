"""Volumes and masks on disk: NIfTI, NRRD and DICOM series are read, NIfTI, DICOM-SEG and RT Structure Sets written.

``readers`` opens volumes, ``checks`` refuses those that are damaged or have no known position in space. The DICOM
modules need the extra ``dicom`` and are imported where they are used.

To add a format to read: its suffixes and an ``_open_...`` function in ``readers``, called by ``open_volume``, that
returns a ``Nifti1Image``. To add a format to write: a module with a function like ``rtstruct.write_rtstruct``, and its
name in ``custom.outputs.formats``.
"""
