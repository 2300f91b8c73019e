"""The inventory: CycloneDX 1.5 JSON with every .deb, wheel, archive, model and data set, licence, hash and source.

The CycloneDX project's own library writes it: no clock and no random number enters, so that the same contents give the
same bytes (a test holds that to the locale, the hash seed and the order of everything). Licences are read from the
shipped bytes: Debian's copyright files and the wheels' own metadata, in the layers.
"""

from __future__ import annotations

import functools
import re
import tarfile
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Union

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from repro.base.errors import CouldNotRun
from repro.base.files import sha256_bytes, sha256_file
from repro.base.paths import Paths
from repro.base.toml import read_toml
from repro.container.image import Image
from repro.fetching import Cache
from repro.images.definition import LayerDefinition, load_definition
from repro.locks.archives import known_source, load_sources, settled
from repro.locks.model import Deb, LockedFile, load_deb_lock, load_wheel_lock
from repro.run.inputs import demo_checkpoint_path

_NAMESPACE = uuid.UUID("5ff4bb2d-4a53-5b4a-9d2d-3b6f0f6bd7a1")
_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
_METADATA = re.compile(r"(?:.*/)?[^/]+\.dist-info/METADATA")
_LICENCE_LINE = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]+[A-Za-z0-9+])")
_MOST_CHARACTERS = 120

Images = Mapping[str, Mapping[str, Image]]
Licence = Union[DisjunctiveLicense, LicenseExpression]


def make_sbom(paths: Paths, images: Images, wheels: Sequence[LockedFile], commit: str, include: Sequence[str]) -> bytes:
    """The inventory of a bundle, deterministic: no clock, its serial number is taken of its content.

    Args:
        paths: of the checkout.
        images: architecture -> name -> image, all built.
        wheels: the host's, in the cache.
        commit: the repository's.
        include: what was asked for by name, 'checkpoint' among it or not.

    Raises:
        CouldNotRun: a layer or wheel is not on this machine.
    """
    components: dict[str, Component] = {}
    contains: dict[str, list[str]] = {}
    for architecture, named in images.items():
        for name, image in named.items():
            reference = f"image:{name}:{architecture}"
            components[reference] = _image(reference, image)
            contains[reference] = []
            below = _Below([], {})
            for definition, layer in zip(load_definition(paths.docker, name).layers, image.layers):
                found = _of_layer(paths, definition, layer.path, architecture, below)
                components.update(found)
                contains[reference] += list(found)
    besides = {**_host_wheels(paths, wheels), **_models_and_data(paths, include)}
    root = Component(
        type=ComponentType.APPLICATION, bom_ref="repository", name="lstm-ctc-bundle", version=commit,
        licenses=_licences([_first_line(paths.root / "LICENSE")]),
    )  # fmt: skip
    contains["repository"] = [*contains, *besides]
    components.update(besides)
    return _written(root, components, contains)


def _written(root: Component, components: Mapping[str, Component], contains: Mapping[str, Sequence[str]]) -> bytes:
    """The document, its serial number made of all the rest of it."""
    references = {name: component.bom_ref for name, component in [*components.items(), ("repository", root)]}
    bom = Bom(
        serial_number=_NAMESPACE,
        metadata=BomMetaData(component=root),
        components=components.values(),
        dependencies=[
            Dependency(references[name], [Dependency(references[part]) for part in parts])
            for name, parts in contains.items()
        ],
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]  # a time of writing would make each writing another one
    without = JsonV1Dot5(bom).output_as_string(indent=2)
    bom.serial_number = uuid.uuid5(_NAMESPACE, sha256_bytes(without.encode()))
    return (JsonV1Dot5(bom).output_as_string(indent=2) + "\n").encode()


def _hash(sha256: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _properties(**values: str) -> list[Property]:
    return [Property(name=f"lstm-ctc-bundle:{name}", value=value) for name, value in sorted(values.items())]


def _licences(names: Iterable[str]) -> list[Licence]:
    unique = sorted({" ".join(name.split())[:_MOST_CHARACTERS] for name in names if name.strip()})
    return [DisjunctiveLicense(name=name) for name in unique or ["not stated"]]


def _first_line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip().splitlines()[0]
    except (OSError, IndexError):
        return ""


def _image(reference: str, image: Image) -> Component:
    return Component(
        type=ComponentType.CONTAINER, bom_ref=reference, name=f"lstm-ctc-bundle/{image.name}",
        version=image.config_digest, hashes=_hash(image.config_digest[7:]),
        properties=_properties(architecture=image.architecture, manifest_digest=image.manifest_digest),
    )  # fmt: skip


@dataclass
class _Below:
    """The packages and copyright texts of an image so far: a later layer's packages may lean on them."""

    debs: list[Deb]
    texts: dict[str, str]


def _of_layer(
    paths: Paths, layer: LayerDefinition, blob: Path, architecture: str, below: _Below
) -> dict[str, Component]:
    if layer.kind == "debs":
        lock = load_deb_lock(paths.root, layer.lock, architecture)
        archives = {index.suite: index.archive for index in lock.indexes}
        below.debs += lock.debs
        below.texts.update(_texts(blob, _COPYRIGHT))
        return dict(_deb(deb, archives[deb.suite], lock.snapshot, below) for deb in lock.debs)
    if layer.kind == "wheels":
        metadata = list(_texts(blob, _METADATA).values())
        stated = {_project(text): _wheel_licences(text) for text in metadata}
        files = load_wheel_lock(paths.root, layer.lock, architecture).files
        return dict(_wheel(file, stated.get(canonicalize_name(file.project), [])) for file in files)
    known = load_sources(paths.conf)
    found = {}
    for name in layer.source_names(architecture):
        source = settled(paths, known_source(known, name))
        reference = f"source:{name}"
        found[reference] = Component(
            type=ComponentType.LIBRARY, bom_ref=reference, name=source.title,
            version=source.digest.rpartition(":")[2], licenses=_licences([source.licence]),
            hashes=_hash(source.digest.rpartition(":")[2]),
            properties=_properties(hash_of=source.digest.partition(":")[0], source=source.page),
        )  # fmt: skip
    return found


def _copyright_of(deb: Deb, below: _Below) -> str:
    """The copyright file of a package: its own, or that of a package of the same source, which Debian links to."""
    source = deb.path.rpartition("/")[0]
    candidates = [deb, *(other for other in below.debs if other.path.rpartition("/")[0] == source)]
    places = [f"usr/share/doc/{package.package}/copyright" for package in candidates]
    return next((place for place in places if place in below.texts), "")


def _deb(deb: Deb, archive: str, snapshot: str, below: _Below) -> tuple[str, Component]:
    reference = f"deb:{deb.sha256}"
    where = _copyright_of(deb, below)
    text = below.texts.get(where, "")
    names = _LICENCE_LINE.findall(text) or [
        f"as in Debian's /usr/share/common-licenses/{n}" for n in _COMMON.findall(text)
    ]
    purl = PackageURL("deb", "debian", deb.package, deb.version, {"arch": deb.architecture, "distro": deb.suite})
    evidence = {"licence_text": f"{where} (sha256 {sha256_bytes(text.encode())})"} if text else {}
    return reference, Component(
        type=ComponentType.LIBRARY, bom_ref=reference, name=deb.package, version=deb.version, purl=purl,
        hashes=_hash(deb.sha256),
        licenses=_licences(names or ([f"see {where}"] if text else [])),
        properties=_properties(source=f"{archive} archive, {deb.path}", snapshot=snapshot, **evidence),
    )  # fmt: skip


def _wheel(file: LockedFile, licences: list[Licence]) -> tuple[str, Component]:
    reference = f"wheel:{file.sha256}"
    return reference, Component(
        type=ComponentType.LIBRARY, bom_ref=reference, name=file.project, version=file.version,
        purl=PackageURL("pypi", None, file.project, file.version), hashes=_hash(file.sha256),
        licenses=licences or _licences([]),
        properties=_properties(source=f"Python package index, {file.name}"),
    )  # fmt: skip


def _project(metadata: str) -> str:
    return str(canonicalize_name(HeaderParser().parsestr(metadata)["Name"] or ""))


def _wheel_licences(metadata: str) -> list[Licence]:
    """As the wheel's metadata says: the expression, else classifiers, a short free text, or a file's name."""
    headers = HeaderParser().parsestr(metadata)
    if headers["License-Expression"]:
        return [LicenseExpression(str(headers["License-Expression"]))]
    classifiers = [
        str(line).rpartition("::")[2].strip()
        for line in headers.get_all("Classifier") or []
        if str(line).startswith("License ::") and not str(line).endswith("OSI Approved")
    ]
    free = str(headers["License"] or "").strip().splitlines()
    file = str(headers["License-File"] or "")
    return _licences(classifiers or free[:1] or ([f"see {file} in the wheel"] if file else []))


@functools.lru_cache(maxsize=32)
def _texts(blob: Path, pattern: re.Pattern[str]) -> dict[str, str]:
    """The small text files of a layer whose path fits, links between documentation folders followed."""
    found: dict[str, str] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(blob, "r:") as archive:
            for member in archive:
                if member.issym() and member.name.startswith("usr/share/doc/"):
                    links[member.name] = member.linkname
                elif member.isreg() and pattern.fullmatch(member.name):
                    stream = archive.extractfile(member)
                    found[member.name] = stream.read().decode("utf-8", "replace") if stream else ""
    except OSError as error:
        raise CouldNotRun(f"the layer {blob} cannot be read: {error}", hint="`invoke images.build` makes it") from error
    for name, target in links.items():
        other = f"usr/share/doc/{target.rstrip('/').rpartition('/')[2]}/copyright"
        if "/" not in target.strip("/") and other in found:
            found[f"{name}/copyright"] = found[other]
    return found


def _host_wheels(paths: Paths, wheels: Sequence[LockedFile]) -> dict[str, Component]:
    found = {}
    for file in wheels:
        path = Cache(paths.root).path(file.sha256)
        if path is None:
            raise CouldNotRun(f"{file.entry} is not fetched", hint="pack where there is a network")
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            text = archive.read(name).decode("utf-8", "replace")
        reference, component = _wheel(file, _wheel_licences(text))
        found[reference] = component
    return found


def _models_and_data(paths: Paths, include: Sequence[str]) -> dict[str, Component]:
    """The demo's weights and corpus, and what is named but never carried."""
    demo = read_toml(paths.conf / "demo.toml")
    weights = demo_checkpoint_path(paths)
    own = _licences([_first_line(paths.root / "LICENSE")])
    carried = ComponentScope.REQUIRED if "checkpoint" in include else ComponentScope.EXCLUDED
    found = {
        "data:demo": Component(
            type=ComponentType.DATA, bom_ref="data:demo", name="demo corpus", version="1", licenses=own,
            description="synthetic speech in TIMIT's layout, made by the demo_corpus stage; pinned in conf/demo.toml",
            properties=_properties(sha256=demo["corpus"]["sha256"]),
        ),
        "data:timit": Component(
            type=ComponentType.DATA, bom_ref="data:timit", name="TIMIT Acoustic-Phonetic Continuous Speech Corpus",
            version="LDC93S1", licenses=_licences(["LDC User Agreement"]), scope=ComponentScope.EXCLUDED,
            description="the user's own; never part of a bundle",
        ),
        "model:published": Component(
            type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model:published", name="ctc_best_model.pth",
            version="published",
            licenses=_licences(["not stated by its publisher"]), scope=carried,
            description="the published weights; part of a bundle only when asked for by name",
        ),
    }  # fmt: skip
    if weights.is_file():
        found["model:demo"] = Component(
            type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model:demo", name="demo checkpoint", version="1",
            licenses=own,
            hashes=_hash(sha256_file(weights)), description="the true architecture, trained on the demo corpus",
        )  # fmt: skip
    return found
