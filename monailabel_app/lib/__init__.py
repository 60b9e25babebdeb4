"""The modules of the MONAI Label app.

``infers``, ``trainers``, ``activelearning``, ``datastore`` and ``endpoints`` are what every MONAI Label app has; beside
them are the served bundles (`bundles`), the fields that clients may send (`schemas`) and what they are told of errors
(`errors`). ``main.py`` puts them together.
"""
