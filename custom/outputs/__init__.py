"""The result folder of an image: masks, merged map, summary, picture."""

from custom.outputs.result_folder import WriteSegmentationd, check_outputs

__all__ = ["WriteSegmentationd", "check_outputs"]
