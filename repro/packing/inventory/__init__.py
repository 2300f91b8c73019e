"""The inventories of a bundle: one set of facts, written as CycloneDX and as SPDX."""

from repro.packing.inventory.cyclonedx_json import cyclonedx
from repro.packing.inventory.facts import Commit
from repro.packing.inventory.gathering import gather
from repro.packing.inventory.spdx_json import spdx

__all__ = ["Commit", "cyclonedx", "gather", "spdx"]
