"""The release; pyproject.toml repeats it, and a test holds the two together."""

__version__ = "0.1.0"
