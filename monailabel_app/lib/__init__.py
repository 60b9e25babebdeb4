"""The modules of the MONAI Label app, which ``main.py`` puts together.

``infers``, ``trainers``, ``activelearning``, ``datastore`` and ``endpoints`` are what every MONAI Label app has. Beside
them are the served bundles (`bundles`), the fields of requests (`schemas`) and the reported errors (`errors`).
"""

from custom.utils.compat import mend_torchvision

mend_torchvision()  # before MONAI Label imports torchvision
