"""What the real ais_bench calls of pkg_resources; the pinned image holds setuptools itself."""

from importlib import metadata


class _Distribution:
    def __init__(self, version):
        self.version = version


def get_distribution(name):
    return _Distribution(metadata.version(name))
