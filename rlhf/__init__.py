"""RLHF from collected comparisons to an aligned policy."""

__version__ = "0.1.0"
