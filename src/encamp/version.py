"""The version of encamp, and a comparison of Python's versions."""

__version__ = "0.1.0.dev0"


def same_minor(one: str, other: str) -> bool:
    """Whether two versions, such as 3.12.1 and 3.12.4, differ at most after the second number."""
    return one.split(".")[:2] == other.split(".")[:2]
