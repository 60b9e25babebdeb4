"""Exported bundles: the folder, its zip, their verification.

``bundle_folder`` makes the folder with ``model_card`` and ``tracing``, ``archive`` the zip; ``verification`` checks
either, ``round_trip`` downloads and runs it in a clean environment. To add a file to every export: ``bundle_folder``,
and ``REQUIRED_FILES`` of ``verification``. ``statements`` has what a card says of a user's own weights. To add a check:
a function in ``verification.READING``, or in ``RUNNING`` where it runs the bundle's code.
"""
