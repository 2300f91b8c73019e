"""Bundles: one file that holds everything, verified by whoever receives it, installed without a network."""

from __future__ import annotations

from repro.packing.verify import BundleReport, translated, trust_key, verify_bundle, verify_installed

__all__ = ["BundleReport", "translated", "trust_key", "verify_bundle", "verify_installed"]
