"""Which image a CANN is in: the table's, another version's, or one without a CANN, to which the host lends its own."""

from __future__ import annotations

from repro.base import versions

CANN_IMAGE = "cann"
HOST = "host"
_FIRST_ON_PYTHON_311 = versions.parse("8.0.RC1")


def cann_image(cann: str) -> str:
    """The image of a CANN.

    Args:
        cann: '' for the table's; a version; or 'host ' and what the host's CANN says of itself, its version first.
    """
    if not cann:
        return CANN_IMAGE
    told = host_cann(cann)
    if not told:
        return f"{CANN_IMAGE}-{cann.lower()}"
    version = versions.parse(told.split()[0])
    older = version is not None and _FIRST_ON_PYTHON_311 is not None and version < _FIRST_ON_PYTHON_311
    return f"{CANN_IMAGE}-{HOST}-py{'37' if older else '311'}"


def host_cann(cann: str) -> str:
    """What the host's own CANN says of itself; '' where the CANN is an image's."""
    kind, _, told = cann.partition(" ")
    return told if kind == HOST else ""


def is_cann(image: str) -> bool:
    """Whether an image of a run is one that a CANN is in or is lent to."""
    return image == CANN_IMAGE or image.startswith(f"{CANN_IMAGE}-")
