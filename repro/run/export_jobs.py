"""`invoke export.jobs`: the steps of a run as manifests for another scheduler, and the files that they need."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import UsageError
from repro.base.files import make_shared_folder, pretty_json, write_atomic
from repro.base.paths import Paths, given_path
from repro.cluster import volcano
from repro.display.console import Console
from repro.graph.code import snapshot
from repro.graph.pipeline import Source
from repro.run.options import Options
from repro.run.request import aim, graph_of, resolve
from repro.run.session import Session

VOLCANO = "volcano"
FILE = "volcano.json"


@dataclass(frozen=True)
class Asked:
    """Options of `invoke export.jobs`; see `repro.cluster.volcano.Site`."""

    options: Options
    system: str
    to: str
    site: volcano.Site


def export(asked: Asked, paths: Paths, console: Console) -> Iterator[str]:
    """Write the manifests and the stages' code; what to do with them, line by line.

    Raises:
        UsageError: there are no manifests for that system, or the folder is there already.
    """
    if asked.system != VOLCANO:
        raise UsageError(f"--for {asked.system!r} is not known", hint=f"--for {VOLCANO}")
    target = given_path("--to", asked.to) if asked.to else paths.results / "jobs"
    if target.exists():
        raise UsageError(f"{target} is there already", hint="remove it, or name another folder with --to")
    session = Session(paths, console)
    request, _ = resolve(asked.options, paths, session.cache, aim(asked.options, session))
    nodes = graph_of(request, paths)
    session.codes.read({node.stage.name for node in nodes.values()})
    images = session.images({node.stage.image for node in nodes.values()}, fetch=asked.options.fetch)
    keys = session.keys(images)
    sources = {s.name: s for node in nodes.values() for s in node.inputs.values() if isinstance(s, Source)}
    parts = volcano.Parts(
        images={name: image.manifest_digest for name, image in images.items()},
        code={node.stage.name: keys.code(node.stage.name).digest for node in nodes.values()},
        sources={name: keys.source_digest(source) for name, source in sources.items()},
    )
    make_shared_folder(target / "code")
    for name in parts.code:
        made = snapshot(keys.code(name), paths.code, session.cache)
        shutil.copytree(made, target / volcano.code_path(made.name), dirs_exist_ok=True)
    write_atomic(target / FILE, pretty_json(volcano.manifests(nodes, parts, asked.site)))
    return _told(target, sources, parts, asked.site)


def _told(target: Path, sources: dict[str, Source], parts: volcano.Parts, site: volcano.Site) -> Iterator[str]:
    yield f"{target / FILE}: {len(parts.images)} images, {len(parts.code)} stages"
    yield "NOT RUN: no cluster ran these manifests; tests hold them to the schemas of Kubernetes and Volcano alone"
    yield f"push the images (`invoke images.save`) to {site.registry}, by these digests:"
    for name, digest in sorted(parts.images.items()):
        yield f"  {name} {digest}"
    yield f"copy into the volume of {site.claim}, and let user 65532 write below steps/:"
    yield f"  {target / 'code'} -> code"
    for name, source in sorted(sources.items()):
        yield f"  {source.path} -> {volcano.source_path(name, parts.sources[name])}"
    yield f"then: kubectl apply -f {target / FILE}; results appear below steps/, and no record is made of them"
