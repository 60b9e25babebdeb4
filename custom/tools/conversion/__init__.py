"""Files of public codes converted to this project's: network checkpoints and banks of prompt vectors.

``checkpoints`` writes the weights of a layout of ``custom.weights.layouts``; ``prompt_banks`` reads banks without
running what a pickle may hold. To add a checkpoint: its layout in ``custom.weights.layouts``. To add a form of bank: a
reader in ``prompt_banks.read_old_bank``.
"""
