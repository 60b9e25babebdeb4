"""What inference leaves on disk: masks, a merged label map, a summary and a picture."""

from custom.outputs.segmentation import WriteSegmentationd, check_outputs

__all__ = ["WriteSegmentationd", "check_outputs"]
