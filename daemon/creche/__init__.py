"""creche minds long-running AI jobs."""

__version__ = "0.1.0"
