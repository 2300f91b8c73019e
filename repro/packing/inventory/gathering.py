"""The facts of the inventories: every .deb, wheel, archive, image, model and data set of a bundle.

Licences, copyrights and makers are read from the shipped bytes: Debian's copyright files and package database, and the
wheels' own metadata, in the layers.
"""

from __future__ import annotations

import functools
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packageurl import PackageURL
from packaging.utils import canonicalize_name

from repro.base.errors import CouldNotRun
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.base.toml import read_toml
from repro.container.image import Image, Layer
from repro.fetching import Cache
from repro.images.definition import LayerDefinition, load_definition
from repro.images.layer_tars import opened
from repro.locks.archives import find_source, known_source, load_sources, settled
from repro.locks.model import Deb, LockedFile, load_deb_lock, load_wheel_lock
from repro.packing.inventory.facts import (
    APPLICATION,
    CONTAINER,
    DATA,
    LIBRARY,
    MODEL,
    SYSTEM,
    Commit,
    Digests,
    Inventory,
    Part,
    Party,
    digests_of,
    digests_of_bytes,
)
from repro.packing.inventory.licences import Licences
from repro.packing.inventory.model_card import model_card
from repro.packing.script import install_script
from repro.record import Record
from repro.run.inputs import demo_checkpoint_path, users_checkpoint

_COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
_METADATA = re.compile(r"(?:.*/)?[^/]+\.dist-info/METADATA")
_DATABASE = re.compile(r"var/lib/dpkg/status(?:\.d/[^/]+)?|usr/lib/os-release")
_OF_DEBS = re.compile(f"{_COPYRIGHT.pattern}|{_DATABASE.pattern}")
_LICENCE_LINE = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]+[A-Za-z0-9+])")
_COPYRIGHT_LINE = re.compile(r"^[ \t*#]*((?:Copyright:?|©|\(c\))[^\n]*\d{4}[^\n]*)$", re.MULTILINE | re.IGNORECASE)
_MAILBOX = re.compile(r"\s*\"?([^<\"]*?)\"?\s*<([^<>\s]+@[^<>\s]+)>")
_FIELD = re.compile(r"^(Package|Maintainer): (.*)$", re.MULTILINE)
_MOST_COPYRIGHTS = 12
_LONGEST_NAME, _MOST_WORDS = 60, 8  # of a licence's name: what is longer is its text
_DEBIAN = Party("Debian", "https://www.debian.org")
_OWN_LICENCE = "Apache-2.0"
_OWN_COPYRIGHT = "Copyright: the authors of the reproducibility bundle"
_NOBODY = Party("not stated by its publisher")

Images = Mapping[str, Mapping[str, Image]]


def gather(
    paths: Paths, images: Images, wheels: Sequence[LockedFile], commit: Commit, include: Sequence[str],
    record: Record | None = None,
) -> Inventory:  # fmt: skip
    """The facts.

    Args:
        paths: of the checkout.
        images: architecture -> name -> image, all built.
        wheels: the host's, in the cache.
        commit: the repository's.
        include: what was asked for by name, 'checkpoint' among it or not.
        record: of the run that is carried, for the model's card; None for no run.

    Raises:
        CouldNotRun: a layer or wheel is not on this machine.
    """
    licences = Licences()
    own = Party("The authors of the reproducibility bundle", email=commit.email)
    parts: dict[str, Part] = {}
    contains: dict[str, tuple[str, ...]] = {}
    for architecture, named in sorted(images.items()):
        for name, image in sorted(named.items()):
            reference = f"image:{name}:{architecture}"
            parts[reference] = _image(reference, image, own)
            found = _of_image(paths, image, architecture, licences)
            parts.update(found)
            contains[reference] = tuple(found)
    top = list(contains)
    besides = _host_wheels(paths, wheels, licences)
    models = _models_and_data(paths, include, own, record)
    parts.update({**besides, **models})
    root = Part(
        "repository", APPLICATION, "lstm-ctc-bundle", commit.id, own, own, (_OWN_LICENCE,), _OWN_COPYRIGHT,
        digests_of_bytes(install_script()), "install.py", _generic("lstm-ctc-bundle", commit.id),
    )  # fmt: skip
    carried = [reference for reference, part in models.items() if part.carried]
    contains[root.ref] = (*top, *besides, *carried)
    cards = (model_card(record),) if record is not None else ()
    return Inventory(commit, root, parts, contains, cards, dict(sorted(licences.texts.items())))


def _generic(name: str, version: str) -> str:
    """A package URL of what no package manager knows."""
    return str(PackageURL("generic", None, re.sub(r"[^A-Za-z0-9.]+", "-", name).lower(), version))


def _image(reference: str, image: Image, own: Party) -> Part:
    return Part(
        reference, CONTAINER, f"lstm-ctc-bundle/{image.name}", image.config_digest, own, own, (_OWN_LICENCE,),
        _OWN_COPYRIGHT, digests_of_bytes(image.config), image.config_digest[7:],
        str(PackageURL("oci", None, image.name, image.manifest_digest, {"arch": image.architecture})),
        description="the image's own files; what it holds has licences of its own",
        properties={"architecture": image.architecture, "manifest_digest": image.manifest_digest},
    )  # fmt: skip


@dataclass
class _Below:
    """What the layers of an image say so far: a later layer's packages may lean on the texts of an earlier one."""

    debs: list[Deb] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    makers: dict[str, str] = field(default_factory=dict)
    os_release: str = ""

    @property
    def release(self) -> str:
        """Debian's version, such as '12'; '' where no layer says it."""
        match = re.search(r'^VERSION_ID="?([0-9.]+)"?$', self.os_release, re.MULTILINE)
        return match[1] if match else ""


def _of_image(paths: Paths, image: Image, architecture: str, licences: Licences) -> dict[str, Part]:
    below = _Below()
    found: dict[str, Part] = {}
    for definition, layer in zip(load_definition(paths.docker, image.name).layers, image.layers):
        if definition.kind == "debs":
            found.update(_debs(paths, definition, layer, architecture, below, licences))
        elif definition.kind == "wheels":
            found.update(_wheels(paths, definition, layer, architecture, licences))
        else:
            found.update(_sources(paths, definition, architecture, licences))
    return found


def _debs(
    paths: Paths, definition: LayerDefinition, layer: Layer, architecture: str, below: _Below, licences: Licences
) -> dict[str, Part]:
    """The .debs of a layer, and the operating system that they are of, which scanners ask for."""
    lock = load_deb_lock(paths.root, definition.lock, architecture)
    below.debs += lock.debs
    texts = _texts(layer, _OF_DEBS)
    below.texts.update({path: text for path, text in texts.items() if _COPYRIGHT.fullmatch(path)})
    for path, text in ((path, text) for path, text in texts.items() if _DATABASE.fullmatch(path)):
        if path.endswith("os-release"):
            below.os_release = text
        for stanza in text.split("\n\n"):
            told = dict(_FIELD.findall(stanza))
            below.makers[told.get("Package", "")] = told.get("Maintainer", "")
    files = {file.sha256: file for file in lock.files}
    found = {}
    if below.release:
        reference = f"os:debian-{below.release}"
        found[reference] = Part(
            reference, SYSTEM, "debian", below.release, _DEBIAN, _DEBIAN, (licences.expression("various", "debian"),),
            "as each package states", digests_of_bytes(below.os_release.encode()), "usr/lib/os-release",
            _generic("debian", below.release),
            description="the distribution of the packages: what scanners look advisories up by",
        )  # fmt: skip
    for deb in lock.debs:
        part = _deb(paths, deb, files[deb.sha256], lock.snapshot, below, licences)
        found[part.ref] = part
    return found


def _deb(paths: Paths, deb: Deb, file: LockedFile, snapshot: str, below: _Below, licences: Licences) -> Part:
    where = _copyright_of(deb, below)
    text = below.texts.get(where, "")
    names = [
        name for name in _LICENCE_LINE.findall(text) if len(name) <= _LONGEST_NAME and len(name.split()) <= _MOST_WORDS
    ] or [f"see common-licenses {name}" for name in _COMMON.findall(text)]
    evidence = {"licence_text": f"{where} (sha256 {sha256_bytes(text.encode())})"} if text else {}
    distribution = f"debian-{below.release}" if below.release else deb.suite
    maker = _mailbox(below.makers.get(deb.package, "")) or _DEBIAN
    return Part(
        f"deb:{deb.sha256}", LIBRARY, deb.package, deb.version, _DEBIAN, maker,
        licences.expressions(names or ([f"see {where}"] if text else []), "debian"),
        _copyrights(text) or (f"see {where}" if text else "not stated"), _digests(paths, file), file.name,
        str(PackageURL("deb", "debian", deb.package, deb.version,
                       {"arch": deb.architecture, "distro": distribution})),
        properties={"source": f"{file.archive} archive, {deb.path}", "snapshot": snapshot, **evidence},
    )  # fmt: skip


def _copyright_of(deb: Deb, below: _Below) -> str:
    """The copyright file of a package: its own, or that of a package of the same source, which Debian links to."""
    source = deb.path.rpartition("/")[0]
    candidates = [deb, *(other for other in below.debs if other.path.rpartition("/")[0] == source)]
    places = [f"usr/share/doc/{package.package}/copyright" for package in candidates]
    return next((place for place in places if place in below.texts), "")


def _copyrights(text: str) -> str:
    found = list(dict.fromkeys(" ".join(line.split()) for line in _COPYRIGHT_LINE.findall(text)))
    more = f"; and {len(found) - _MOST_COPYRIGHTS} more" if len(found) > _MOST_COPYRIGHTS else ""
    return "; ".join(line[:200] for line in found[:_MOST_COPYRIGHTS]) + more


def _mailbox(text: str) -> Party | None:
    match = _MAILBOX.match(text)
    return Party(match[1] or match[2], email=match[2]) if match else None


def _digests(paths: Paths, file: LockedFile) -> Digests:
    """Of a locked file: the sha512 where its bytes are here (packing brings them), else ''."""
    path = Cache(paths.root).path(file.sha256)
    return _of_cached(path) if path is not None else Digests(file.sha256, "")


@functools.cache
def _of_cached(path: Path) -> Digests:
    return digests_of(path)


def _wheels(
    paths: Paths, definition: LayerDefinition, layer: Layer, architecture: str, licences: Licences
) -> dict[str, Part]:
    stated = {}
    for text in _texts(layer, _METADATA).values():
        headers = HeaderParser().parsestr(text)
        stated[str(canonicalize_name(headers["Name"] or ""))] = headers
    files = load_wheel_lock(paths.root, definition.lock, architecture).files
    parts = (_wheel(paths, file, stated.get(str(canonicalize_name(file.project))), licences) for file in files)
    return {part.ref: part for part in parts}


def _wheel(paths: Paths, file: LockedFile, headers: Message | None, licences: Licences) -> Part:
    maker = _maker(file.project, headers)
    stated = _wheel_licences(headers) if headers is not None else []
    return Part(
        f"wheel:{file.sha256}", LIBRARY, file.project, file.version, maker, maker, licences.expressions(stated, "pypi"),
        "see the licence files in the wheel", _digests(paths, file), file.name,
        str(PackageURL("pypi", None, file.project, file.version)),
        properties={"source": f"Python package index, {file.name}"},
    )  # fmt: skip


def _maker(project: str, headers: Message | None) -> Party:
    """Author and address as the metadata has them: a mailbox, else a project's page."""
    if headers is None:
        return Party(f"the authors of {project}")
    for name in ("Author-email", "Maintainer-email"):
        text = str(headers[name] or "")
        party = _mailbox(text)
        if party is None and re.fullmatch(r"[^\s<>,]+@[^\s<>,]+", text.partition(",")[0]):
            party = Party(str(headers[name.partition("-")[0]] or "") or text, email=text.partition(",")[0])
        if party is not None:
            return party
    pages = [str(headers["Home-page"] or ""), *(str(url).rpartition(", ")[2] for url in
                                                headers.get_all("Project-URL") or [])]  # fmt: skip
    url = next((page for page in pages if page.startswith(("http://", "https://"))), "")
    return Party(str(headers["Author"] or "") or f"the authors of {project}", url)


def _wheel_licences(headers: Message) -> list[str]:
    """As the wheel's metadata says: the expression, else classifiers, a short free text, or a file's name."""
    if headers["License-Expression"]:
        return [str(headers["License-Expression"])]
    classifiers = [
        str(line).rpartition("::")[2].strip()
        for line in headers.get_all("Classifier") or []
        if str(line).startswith("License ::") and not str(line).endswith("OSI Approved")
    ]
    free = str(headers["License"] or "").strip().splitlines()
    file = str(headers["License-File"] or "")
    return classifiers or free[:1] or ([f"see {file} in the wheel"] if file else [])


def _sources(paths: Paths, definition: LayerDefinition, architecture: str, licences: Licences) -> dict[str, Part]:
    known, found = load_sources(paths.conf), {}
    for name in definition.source_names(architecture):
        source = settled(paths, known_source(known, name))
        path = find_source(paths, source)
        kind, _, digest = source.digest.rpartition(":")
        maker = Party(f"the authors of {source.title}", source.page)
        found[f"source:{name}"] = Part(
            f"source:{name}", LIBRARY, source.title, digest, maker, maker,
            licences.expressions([source.licence], "source"), "see the archive",
            digests_of(path) if path is not None else (Digests(digest, "") if kind == "sha256" else None),
            path.name if path is not None else source.file, _generic(source.title, digest),
            properties={"hash_of": kind, "pinned": digest, "source": source.page},
        )  # fmt: skip
    return found


@functools.lru_cache(maxsize=64)
def _texts(layer: Layer, pattern: re.Pattern[str]) -> dict[str, str]:
    """The small text files of a layer whose path fits, links between documentation folders followed."""
    found: dict[str, str] = {}
    links: dict[str, str] = {}
    with opened(layer) as tar, tarfile.open(fileobj=tar, mode="r|") as archive:
        for member in archive:
            if member.issym() and member.name.startswith("usr/share/doc/"):
                links[member.name] = member.linkname
            elif member.isreg() and pattern.fullmatch(member.name):
                stream = archive.extractfile(member)
                found[member.name] = stream.read().decode("utf-8", "replace") if stream else ""
    for name, target in links.items():
        other = f"usr/share/doc/{target.rstrip('/').rpartition('/')[2]}/copyright"
        if "/" not in target.strip("/") and other in found:
            found[f"{name}/copyright"] = found[other]
    return found


def _host_wheels(paths: Paths, wheels: Sequence[LockedFile], licences: Licences) -> dict[str, Part]:
    found = {}
    for file in wheels:
        path = Cache(paths.root).path(file.sha256)
        if path is None:
            raise CouldNotRun(f"{file.entry} is not fetched", hint="pack where there is a network")
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            headers = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
        part = _wheel(paths, file, headers, licences)
        found[part.ref] = part
    return found


def _models_and_data(paths: Paths, include: Sequence[str], own: Party, record: Record | None) -> dict[str, Part]:
    """The demo's weights and corpus, and what is named but never carried."""
    demo = read_toml(paths.conf / "demo.toml")
    published = users_checkpoint(paths) if "checkpoint" in include else None
    ldc = Party("Linguistic Data Consortium", "https://catalog.ldc.upenn.edu/LDC93S1")
    parts = [
        Part("data:demo", DATA, "demo corpus", "1", own, own, (_OWN_LICENCE,), _OWN_COPYRIGHT, carried=False,
             description="synthetic speech in TIMIT's layout, made by the demo_corpus stage; pinned in conf/demo.toml",
             properties={"sha256": demo["corpus"]["sha256"]}),
        Part("data:timit", DATA, "TIMIT Acoustic-Phonetic Continuous Speech Corpus", "LDC93S1", ldc, ldc,
             ("LicenseRef-LDC-User-Agreement",), "see the LDC User Agreement", carried=False,
             description="the user's own; never part of a bundle"),
        Part("model:published", MODEL, "ctc_best_model.pth", "published", _NOBODY, _NOBODY,
             ("LicenseRef-not-stated",), "not stated by its publisher",
             digests_of(published) if published else None, published.name if published else "",
             _generic("ctc_best_model", "published"),
             carried=published is not None,
             description="the published weights; part of a bundle only when asked for by name"),
    ]  # fmt: skip
    weights = demo_checkpoint_path(paths)
    if weights.is_file():
        parts.append(Part(
            "model:demo", MODEL, "demo checkpoint", "1", own, own, (_OWN_LICENCE,), _OWN_COPYRIGHT,
            digests_of(weights), weights.name, _generic("demo-checkpoint", "1"),
            description="the true architecture, trained on the demo corpus",
        ))  # fmt: skip
    if record is not None and record.data.kind == "user":
        parts.append(Part(
            "data:user", DATA, "the user's data set", record.data.fingerprint, _NOBODY, _NOBODY,
            ("LicenseRef-not-stated",), "not stated", carried=False,
            description="named by its digest; see the record",
        ))  # fmt: skip
    return {part.ref: part for part in parts}
