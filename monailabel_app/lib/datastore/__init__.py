"""Datastores of images and labels: a folder (`local`) or a PACS over DICOMweb (`dicomweb`); `labels` checks uploads.

To add a datastore: subclass ``AtomicDatastore`` of `local` (or MONAI Label's ``Datastore``) in a module here, and let
`opening` recognise it by the form of ``--studies``.
"""
