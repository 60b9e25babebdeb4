"""The result folder of an image: masks, merged map, summary, picture.

``result_folder`` writes it, ``structures`` makes and measures the masks of the prompt's structures, ``formats`` says
which formats there are. To add a format: a writer in ``custom.imageio``, its name and call in ``formats``. To add an
entry of ``summary.json``: ``SaveSegmentationd._summarise`` and ``summary.schema.json``.
"""

from custom.outputs.result_folder import SaveSegmentationd, check_outputs

__all__ = ["SaveSegmentationd", "check_outputs"]
