"""What A and B are: layers, images in an archive or in artifacts/oci, results of stages, or whole runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from repro.audit.compare import utterances_of
from repro.audit.evidence import RECORD, Evidence, digest_below, open_run
from repro.audit.explain import causes
from repro.audit.explain.comparison import OPEN, Finding, compare
from repro.audit.explain.contents import places
from repro.audit.explain.rebuilt import Truths
from repro.audit.explain.sides import FILE, FolderSide, Section, TarSide
from repro.audit.leaves import differences
from repro.audit.places import Utterances
from repro.base import confined, strict_json
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.foreign import shown
from repro.base.paths import Paths, given_path
from repro.base.temporary import temporary_folder
from repro.container.image import Layer
from repro.graph.digests import digest_of_files
from repro.images.layer_tars import is_here, write_tar

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_MOST_BYTES = 64 * 1024**3
_MOST_DOCUMENT_BYTES = 16 * 1024**2
_MOST_LAYERS = 1000  # of one image


@dataclass(frozen=True)
class Part:
    """One comparison inside an explanation: of a layer, of a stage's output, of an image's settings.

    Attributes:
        name: what was compared; safe to show.
        findings: each path that differs.
        notes: what could not be compared, and why.
        looked_at: bytes that were read, name -> hex sha256.
    """

    name: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    looked_at: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The part in an explanation's JSON."""
        return {"name": self.name, "notes": list(self.notes), "files": [each.as_json() for each in self.findings]}


@dataclass
class Blob:
    """A file, or a member of an archive: bytes that can be read again. `name` is for people."""

    name: str
    stream: BinaryIO
    start: int
    size_bytes: int
    _sha256: str = field(default="", init=False)

    def section(self) -> Section:
        """Its bytes as a file of their own."""
        return Section(self.stream, self.start, self.size_bytes)

    def document(self) -> Any:
        """It as JSON.

        Raises:
            VerificationFailed: it is too large or no strict JSON.
        """
        if self.size_bytes > _MOST_DOCUMENT_BYTES:
            raise VerificationFailed(f"{self.name} is too large for a document")
        return strict_json.parse(self.section().read(), what=self.name)

    @property
    def sha256(self) -> str:
        """Of its bytes, read once."""
        if not self._sha256:
            digest, section = hashlib.sha256(), self.section()
            while chunk := section.read(1 << 20):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256


@dataclass(frozen=True)
class ImageGiven:
    """An image: its config, and its layers, lowest first; None for a layer whose bytes are not here."""

    name: str
    config: Any
    layers: tuple[Blob | None, ...]


def opened(paths: Paths, text: str, stack: ExitStack) -> Blob | Path:
    """What a word of the command line names: a blob, or a folder.

    Raises:
        UsageError: there is nothing of this name.
        NotPlain: it is no plain file.
    """
    digest = _DIGEST.fullmatch(text)
    path = tar_of_digest(paths, digest[1], stack) if digest else given_path("A or B", text)
    if path.is_dir():
        return path
    try:
        stream = stack.enter_context(confined.open_below(path.parent, path.name, _MOST_BYTES))
    except FileNotFoundError:
        raise UsageError(
            f"{shown(text)}: there is no such file, folder or blob",
            hint="give a tar, a saved archive, a folder of a run or of a stage's result, or a digest in artifacts/oci",
        ) from None
    return Blob(path.name, stream, 0, stream.seek(0, os.SEEK_END))


def tar_of_digest(paths: Paths, sha256: str, stack: ExitStack) -> Path:
    """Where a blob lies; of a layer that lies here unpacked alone, its tar, made for as long as the stack lives."""
    blob = paths.blobs / sha256
    layer = Layer(f"sha256:{sha256[:12]}", "", f"sha256:{sha256}", 0, blob, "", paths.layer_trees / sha256)
    if os.path.lexists(blob) or not is_here(layer):
        return blob
    folder: Path = stack.enter_context(temporary_folder(paths.temporary, "explain"))
    write_tar(layer, folder / sha256)
    return folder / sha256


def opened_layer(paths: Paths, digest: str, stack: ExitStack) -> Blob | None:
    """The tar of a layer; None where it is not here."""
    try:
        found = opened(paths, digest, stack)
    except UsageError:
        return None
    return found if isinstance(found, Blob) else None


def explain_blobs(paths: Paths, one: Blob, two: Blob, stack: ExitStack, truths: Truths) -> list[Part]:
    """Why two files differ: as images where both are, else as layers."""
    if one.sha256 == two.sha256:
        return []
    images = [_images(paths, blob, stack) for blob in (one, two)]
    if bool(images[0]) != bool(images[1]):
        raise UsageError(f"{one.name} and {two.name}: one is an image and the other is not")
    if not images[0]:
        return [explain_layer("the layer", one, two, truths)]
    parts = []
    if len(images[0]) != len(images[1]):
        note = f"A holds {len(images[0])} images, B holds {len(images[1])}: the first ones are compared"
        parts.append(Part("the archive", (), (note,)))
    for a, b in zip(*images):
        parts += explain_image(a, b, truths)
    return parts or [same_members("the archive", one, two)]


def explain_image(one: ImageGiven, two: ImageGiven, truths: Truths) -> list[Part]:
    """Why two images differ: their settings, and layer by layer."""
    if max(len(one.layers), len(two.layers)) > _MOST_LAYERS:
        raise VerificationFailed(f"image {one.name} names more than {_MOST_LAYERS} layers")
    found = differences(one.config, two.config, "config")
    parts = [Part(f"settings of image {one.name}", tuple(_setting(text) for text in found))] if found else []
    if len(one.layers) != len(two.layers):
        note = f"A has {len(one.layers)} layers, B has {len(two.layers)}"
        parts.append(Part(f"layers of image {one.name}", (), (note,)))
    for number, (a, b) in enumerate(zip(one.layers, two.layers), 1):
        name = f"layer {number} of image {one.name}"
        if a is None or b is None:
            parts.append(Part(name, (), (f"the bytes of {'A' if a is None else 'B'} are not here",)))
        elif a.sha256 != b.sha256:
            parts.append(explain_layer(name, a, b, truths))
    return parts


def _setting(text: str, reason: str = "an image's settings come from its definition") -> Finding:
    return Finding(text.partition(" ")[0], (causes.SETTING,), shown(text, 300), OPEN, reason)


def explain_layer(name: str, one: Blob, two: Blob, truths: Truths) -> Part:
    """Why two layers differ; equal ones give no finding."""
    if one.sha256 == two.sha256:
        return Part(name, ())
    sides = [TarSide(blob.stream, blob.start, blob.size_bytes, blob.name) for blob in (one, two)]
    findings = compare(sides[0], sides[1])
    if findings:
        truth, note = truths.of({one.sha256, two.sha256})
        if truth is not None:
            findings = compare(sides[0], sides[1], truth)
        return Part(name, tuple(findings), (note,) if note else (), _both(name, one.sha256, two.sha256))
    return same_members(name, one, two)


def _both(name: str, a: str, b: str) -> dict[str, str]:
    return {f"A: {name}": a, f"B: {name}": b}


def same_members(name: str, one: Blob, two: Blob) -> Part:
    """Archives whose members are the same: other headers, padding, or an archive in another form."""
    place = places(one.section(), two.section())[0]  # type: ignore[arg-type]
    where = f"the members are the same; byte {place.offset} of the archive: {place.bytes_shown()}"
    finding = Finding("the archive itself", (causes.FORM,), where, OPEN, "unpacked, both are the same")
    return Part(name, (finding,), looked_at=_both(name, one.sha256, two.sha256))


def _images(paths: Paths, blob: Blob, stack: ExitStack) -> list[ImageGiven]:
    """The images that a file holds or is: an archive with manifest.json, or a config or manifest of artifacts/oci."""
    first = blob.section().read(1)
    if first == b"{":
        return [_of_document(paths, blob, stack)]
    side = TarSide(blob.stream, blob.start, blob.size_bytes, blob.name)
    listed = side.members.get("manifest.json")
    if listed is None:
        return []

    def member(name: str) -> Blob:
        found = side.members.get(name)
        if found is None or found.kind != "file":
            raise VerificationFailed(f"{blob.name} lacks {shown(name)}")
        return Blob(shown(name), blob.stream, blob.start + found.offset, found.size_bytes)

    try:
        return [
            ImageGiven(
                shown(", ".join(entry.get("RepoTags") or ["without a name"])),
                member(entry["Config"]).document(),
                tuple(member(name) for name in entry["Layers"]),
            )
            for entry in member("manifest.json").document()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{blob.name}: manifest.json is not that of a saved image") from error


def _of_document(paths: Paths, blob: Blob, stack: ExitStack) -> ImageGiven:
    document = blob.document()
    try:
        if "config" in document and "layers" in document:  # a manifest
            inner = opened(paths, document["config"]["digest"], stack)
            assert isinstance(inner, Blob)  # a blob is a file
            document = inner.document()
        layers = []
        for digest in document["rootfs"]["diff_ids"]:
            if not _DIGEST.fullmatch(digest):
                raise VerificationFailed(f"{blob.name} names a layer {shown(digest)}, which is no digest")
            layers.append(opened_layer(paths, digest, stack))
        title = document.get("config", {}).get("Labels", {}).get("org.opencontainers.image.title", blob.name)
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{blob.name} is not the config or manifest of an image") from error
    return ImageGiven(shown(title), document, tuple(layers))


def explain_folders(paths: Paths, one: Path, two: Path, stack: ExitStack, truths: Truths) -> list[Part]:
    """Why two folders differ: as runs where both hold a record, else as results of a stage."""
    if all((folder / RECORD).is_file() for folder in (one, two)):
        runs = open_run(one, paths), open_run(two, paths)
        records = Part(RECORD, (), looked_at=_both(RECORD, runs[0].sha256, runs[1].sha256))
        return [records, *_explain_runs(*runs, stack, truths)]
    return [_explain_results("the result", _outputs(one), _outputs(two))]


def _outputs(folder: Path) -> Path:
    return folder / "out" if (folder / "result.json").is_file() and (folder / "out").is_dir() else folder


def _explain_results(name: str, one: Path, two: Path, utterances: Utterances | None = None) -> Part:
    sides = [FolderSide(folder) for folder in (one, two)]
    findings = compare(sides[0], sides[1], utterances=utterances)
    digests = [_digest_of(folder, side) for folder, side in zip((one, two), sides)]
    return Part(name, tuple(findings), looked_at=_both(name, digests[0], digests[1]))


def _digest_of(folder: Path, side: FolderSide) -> str:
    """The digest that a record gives for the outputs of a stage."""
    files = [member.path for member in side.members.values() if member.kind == FILE]
    return digest_of_files({path: digest_below(folder, path) for path in files})


def _explain_runs(one: Evidence, two: Evidence, stack: ExitStack, truths: Truths) -> Iterator[Part]:
    asked = [
        text
        for name in ("request", "data", "checkpoint", "toolchain")
        for text in differences(getattr(one.record, name), getattr(two.record, name), name)
    ]
    if asked:
        yield Part(
            "what was asked and given", tuple(_setting(text, "not the same run was asked for") for text in asked)
        )
    yield from _explain_recorded_layers(one, two, stack, truths)
    keys = [stage.key for stage in one.record.stages]
    others = [stage.key for stage in two.record.stages]
    lacking = [*(f"only A has stage {key}" for key in keys if key not in others),
               *(f"only B has stage {key}" for key in others if key not in keys)]  # fmt: skip
    if lacking:
        yield Part("the stages", (), tuple(shown(line) for line in lacking))
    for key in keys:
        if key in others and one.stage(key).outputs.digest != two.stage(key).outputs.digest:
            name = f"output of stage {key}"
            try:
                a, b = (run.stored(run.stage(key)).folder / "out" for run in (one, two))
                yield _explain_results(name, a, b, utterances_of(one, one.stage(key)))
            except CouldNotVerify as error:
                yield Part(name, (), (error.message,))


def _explain_recorded_layers(one: Evidence, two: Evidence, stack: ExitStack, truths: Truths) -> Iterator[Part]:
    """The layers of one name whose digests the two records give differently, each pair once."""
    listed = [
        {layer.name: layer.diff_id for layers in run.record.image_layers.values() for layer in layers}
        for run in (one, two)
    ]
    for name in sorted(set(listed[0]) & set(listed[1])):
        digests = [names[name] for names in listed]
        if digests[0] == digests[1]:
            continue
        a, b = (opened_layer(run.paths, digest, stack) for run, digest in zip((one, two), digests))
        if a is not None and b is not None:
            yield explain_layer(f"layer {name}", a, b, truths)
        else:
            yield Part(f"layer {name}", (), (f"{digests[0]} and {digests[1]}: not both are in artifacts/",))
