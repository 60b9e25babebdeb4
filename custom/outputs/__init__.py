"""The result folder of an image: masks, merged map, summary, picture."""

from custom.outputs.result_folder import SaveSegmentationd, check_outputs

__all__ = ["SaveSegmentationd", "check_outputs"]
