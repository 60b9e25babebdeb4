"""Training: fine-tune a served bundle on the finished labels (`fine_tune`, `finished_labels`) and record how it went.

To add a trainer: subclass MONAI Label's ``TrainTask`` in a module here and name it in ``DeepFiLMApp.init_trainers``;
options that clients may set go into ``TrainFields`` of ``lib/schemas.py``.
"""
