"""`invoke toolchain`: the compatibility table, held to what is here."""

from __future__ import annotations

from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import PINNED_IMAGES
from repro.guide import toolchain
from repro.images.definition import image_names
from repro.images.layer_index import known_images
from repro.machine import npu
from repro.record.stage_files import ProbeFile
from repro.run.record import read_output
from repro.run.request import probe_nodes
from repro.run.session import Session


def compatibility_table(paths: Paths, console: Console, engine: str) -> str:
    """Required and found of every component, by a probe of each image that is built here and of this host."""
    session = Session(paths, console)
    components = toolchain.load_components(paths.conf)
    roles = {component.image for component in components} | set(PINNED_IMAGES.values())
    names = sorted(roles & set(image_names(paths.docker)))
    images = known_images(paths, names, session.architecture)
    found: dict[str, ProbeFile] = {}
    if images:
        choice = session.engine(engine, fetch=False)
        with session.store.in_use():
            done = session.runner(choice.engine, session.keys(images)).run(probe_nodes(images))
        found = {name: read_output(done[f"probe:{name}"], "probe.json", ProbeFile) for name in images}
    rows = toolchain.compare(components, found, npu.facts(npu.examine()))
    absent = [name for name in names if name not in images]
    note = f"not built here, so not probed: {', '.join(absent)}\n" if absent else ""
    return toolchain.describe(rows) + note
