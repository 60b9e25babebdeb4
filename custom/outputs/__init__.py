"""What inference leaves on disk: masks, a merged label map, a summary and a picture; and pictures of an evaluation."""

from custom.outputs.comparison import ComparisonPictures
from custom.outputs.segmentation import OutputError, WriteSegmentationd, check_outputs

__all__ = ["ComparisonPictures", "OutputError", "WriteSegmentationd", "check_outputs"]
