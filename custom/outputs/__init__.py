"""What inference leaves on disk: masks, a merged label map, a summary and a picture."""

from custom.outputs.segmentation import OutputError, WriteSegmentationd, check_outputs

__all__ = ["OutputError", "WriteSegmentationd", "check_outputs"]
