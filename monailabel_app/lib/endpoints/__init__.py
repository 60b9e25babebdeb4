"""HTTP endpoints: MONAI Label's routes with validated fields, the guard before them, and the OHIF viewer.

To add an endpoint: write a function on the ``router`` of `routes` (tasks) or `datastore` (files), with a role of
`guard` and a schema of ``lib/schemas.py``, and name its path in ``OFFERED`` of ``tests/monailabel_app/test_server.py``.
"""
