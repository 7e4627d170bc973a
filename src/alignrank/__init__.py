"""AlignRank: object detection whose scores rank boxes by localization quality."""

__version__ = "0.1.0"
