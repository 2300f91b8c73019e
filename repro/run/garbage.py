"""`invoke store.gc` and `images.gc`: remove what no run refers to, and what no image of this checkout is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from repro.base.errors import BundleError, CouldNotRun
from repro.base.files import disk_bytes, remove_tree
from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.graph.code import drop_snapshots
from repro.graph.store import Store
from repro.images.in_use import current_layers, published_images, surplus_blobs
from repro.images.rootfs import LAYERS
from repro.record import Record, load_record
from repro.record.reading import FILE


def collect_garbage(paths: Paths, say: Callable[[str], None]) -> None:
    """Remove stored results that no run refers to: the runs in artifacts/runs are the roots.

    It waits for the runs in progress: what they take is named by their record only when they end.

    Raises:
        CouldNotRun: a record cannot be read, so that what it refers to is unknown.
    """
    store = Store(paths.store, paths.temporary, StatCache(None))
    with store.alone(say):
        before = disk_bytes(paths.store) + disk_bytes(paths.code)
        results: set[str] = set()
        code: set[str] = set()
        for path in sorted(paths.runs.glob(f"*/{FILE}")):
            for stage in _record(path).stages:
                results.add(stage.fingerprint)
                code.add(stage.code)
        removed = store.collect_garbage(results)
        snapshots = drop_snapshots(paths.code, code, most=0)
        freed = before - disk_bytes(paths.store) - disk_bytes(paths.code)
    kept = f"{len(results)} kept for the runs in artifacts/runs"
    say(f"{len(removed)} results removed, {kept}; {snapshots} snapshots of code removed; {freed / 1e6:.0f} MB freed")


def collect_images(paths: Paths, say: Callable[[str], None]) -> None:
    """Remove layers and unpacked images that no image of this checkout, or of its OCI layout, is made of.

    It waits for the runs in progress, as `collect_garbage` does. All of it can be made again from the locks.
    """
    with Store(paths.store, paths.temporary, StatCache(None)).alone(say):
        before = disk_bytes(paths.oci) + disk_bytes(paths.rootfs)
        published = published_images(paths)
        entries, built = current_layers(paths)
        for entry in sorted(set(paths.layer_index.glob("*.json")) - entries):
            entry.unlink()
        blobs = built.union(*(image.blobs for image in published))
        layers = [path for path in sorted(paths.blobs.glob("*")) if path.name not in blobs and path.name[0] != "."]
        chains = {LAYERS, *(image.chain for image in published)}
        roots = [path for path in sorted(paths.rootfs.glob("*")) if path.name not in chains and path.name[0] != "."]
        trees = sorted((paths.rootfs / LAYERS).glob("*"))
        layers += [path for path in trees if path.name not in blobs and path.name[0] != "."]
        surplus = surplus_blobs(paths, entries)
        for path in (*layers, *roots, *surplus):
            remove_tree(path)
        freed = before - disk_bytes(paths.oci) - disk_bytes(paths.rootfs)
    also = f"; {len(surplus)} tars of layers that lie unpacked too" if surplus else ""
    count = len({path.name for path in layers})
    say(f"{count} layers and {len(roots)} unpacked images removed{also}; {freed / 1e6:.0f} MB freed")


def _record(path: Path) -> Record:
    try:
        return load_record(path)
    except BundleError as error:
        raise CouldNotRun(
            f"which results a run refers to is unknown: {error.message}", hint=f"remove the folder {path.parent}"
        ) from error
