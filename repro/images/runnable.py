"""Whether this machine can run an image at all, known before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping

from repro.images.definition import ImageDefinition

HINT = (
    "boot a kernel with memory pages of 4 KiB (most distributions for arm64 offer one beside theirs); or let these "
    "steps run once on a machine that has one, with the same processor and BUNDLE_RESULTS on a disk that both see: "
    "what is stored there is taken here"
)


def why_image_cannot_run(image: ImageDefinition, facts: Mapping[str, str | int]) -> str:
    """Why no engine can run this image on this machine; '' where one can, as far as is known.

    Args:
        image: its definition.
        facts: `repro.machine.facts.facts()`: the architecture and the size of its memory pages are looked at.
    """
    largest = image.largest_page_bytes.get(str(facts["architecture"]))
    page = int(facts["page_size_bytes"])
    if largest is None or page <= largest:
        return ""
    return (
        f"image {image.name} cannot run here: its libraries are laid out for memory pages of at most "
        f"{largest // 1024} KiB, and this machine's kernel has pages of {page // 1024} KiB"
    )
