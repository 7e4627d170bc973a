"""How good a detector is: on a split of a data set, or from COCO results of any detector."""

from alignrank.extras import require

require("report", "scipy", "matplotlib", "plotly")
