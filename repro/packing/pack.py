"""`invoke bundle.pack`: everything chosen, gathered, described, written and signed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro.base.confined import read_below
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.paths import Paths, given_path
from repro.container.image import Image
from repro.display.console import Console
from repro.fetching import Cache, fetch_files
from repro.images.build import build_images, files_needed
from repro.images.commands import architectures, obtainable
from repro.locks.model import LockedFile
from repro.packing import contents, repository, runs
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import FORMAT, Refused, parsed
from repro.packing.installer.provenance import image_statement, run_statement
from repro.packing.installer.statements import ATTESTATIONS, Beside, check_statements, files_beside
from repro.packing.inventory import cyclonedx, gather, spdx
from repro.packing.page import verify_page
from repro.packing.script import install_script
from repro.packing.signing import Signer
from repro.packing.statements import envelope, statement_files
from repro.packing.verify import translated
from repro.packing.writer import Item, hashed, write_bundle
from repro.resolving.host_wheels import PYTHONS, load_host_wheels
from repro.run.engine_choice import compiling_engine

Say = Callable[[str], None]
_SIZE = re.compile(r"([0-9]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MOST_STATEMENT_BYTES = 64 << 20
_READ_ME = """\
{name}: a bundle that is installed without a network.

    tar -xf {file} install.py
    sha256sum install.py                 # compare with what its maker told you by another way
    python3 -I install.py {file} --key FINGERPRINT

{parts}To verify it alone, without Python: open verify.html in a browser. Take that page from a checkout that you trust
(invoke bundle.page), or compare its sha256 too: a page that came with the bundle can lie.

The fingerprint of the maker's key comes from the maker, by another way than this file.
docs/guide-airgap.md (below tree/) tells the whole, and how to verify everything with sha256sum, openssl and jq alone.
"""


@dataclass(frozen=True)
class Choices:
    """The command line of a packing, parsed.

    Attributes:
        arch: 'amd64', 'arm64', both with a comma, or '' for this machine's.
        run: a run's name, 'latest', or '' for none.
        run_detail: as `runs.pack_run`.
        include: of `contents.INCLUDABLE`.
        since: an earlier bundle whose files are left out.
        part_size_bytes: 0 for one file.
        attestations: a folder of statements to carry, such as an audit wrote; None for none.
    """

    arch: str = ""
    with_sources: bool = False
    run: str = ""
    run_detail: str = ""
    include: tuple[str, ...] = ()
    since: Path | None = None
    part_size_bytes: int = 0
    fetch: bool = True
    attestations: Path | None = None


def parse_size(text: str) -> int:
    """'4GB', '650MB', '2GiB' or bytes; '' is 0.

    Raises:
        UsageError: anything else.
    """
    match = _SIZE.fullmatch(text.strip()) if text else None
    if text and match is None:
        raise UsageError(f"--part-size {text!r} is not a size", hint="such as 650MB, 4GB or 4GiB")
    if match is None:
        return 0
    unit: int = (1024 if match.group(3) else 1000) ** _POWERS[match.group(2).upper()]
    return int(match.group(1)) * unit


def pack(paths: Paths, choices: Choices, signer: Signer | None, to: str, say: Say) -> list[Path]:
    """Pack a bundle.

    Args:
        paths: of the checkout, which must be at a commit.
        choices: what goes in.
        signer: None for an unsigned one.
        to: the file to write, NAME.tar; '' for one below artifacts/bundles named by commit and architectures.
        say: told what was chosen and written.

    Returns:
        The files written.

    Raises:
        UsageError, CouldNotRun, VerificationFailed: what was asked for is not there, or is not what it should be.
    """
    commit = repository.head(paths.root)
    chosen = architectures(choices.arch)
    target = given_path("--to", to) if to else _default_target(paths, commit, chosen, choices.since)
    if target.suffix != ".tar":
        raise UsageError(f"--to {to}: a bundle's name ends in .tar", hint=f"--to {to}.tar")
    weights = "checkpoint" in choices.include
    packed = [runs.pack_run(paths, choices.run, choices.run_detail, with_weights=weights)] if choices.run else []
    for line in [*runs.describe(packed, chosen), *(contents.LICENCE_NOTES[name] for name in choices.include)]:
        say(f"note: {line}")
    images = _images(paths, chosen, choices, say)
    wheels = load_host_wheels(paths.root, chosen)
    sources = contents.locked_sources(paths, images) if choices.with_sources else []
    _bring(paths, [*wheels, *contents.locked_files(paths, images), *sources], fetch=choices.fetch)
    items = _in_order(
        [
            *contents.repository_items(repository.files_at(paths.root, commit)),
            *contents.image_items(images),
            *contents.wheel_items(paths, wheels),
            *(contents.source_items(paths, images, sources) if choices.with_sources else ()),
            *contents.included_items(paths, choices.include),
            *(item for run in packed for item in run.items),
            *_attestations(images, packed, commit, signer),
            *_brought(choices.attestations),
            *_inventories(paths, images, wheels, packed, choices),
            Item.of_bytes("install.py", install_script(), executable=True),
            Item.of_bytes("verify.html", verify_page()),
            Item.of_bytes("README.txt", _read_me(target, choices).encode()),
        ]
    )
    about: dict[str, Any] = {
        **_described(choices, target.stem, commit, signer),
        "architectures": chosen,
        "contents": contents.summary(images, choices.include, with_sources=choices.with_sources),
        "runs": [{"name": run.name, "detail": choices.run_detail or "full"} for run in packed],
        "unpacked_bytes": contents.unpacked_bytes(images, wheels),
    }
    if choices.since is not None:
        items, about["base"] = _difference(items, choices.since)
    with Console().transfer("pack") as progress:
        written = write_bundle(target, items, about, signer, progress)
    _check_statements(written)
    say(_summary(items))
    say(f"signed by {signer.fingerprint}" if signer else "NOT SIGNED: nobody can verify it")
    return written


def _described(choices: Choices, name: str, commit: str, signer: Signer | None) -> dict[str, Any]:
    """What the list says of the bundle that does not depend on what lies in it."""
    return {
        "format": FORMAT,
        "name": name,
        "commit": commit,
        "pythons": list(PYTHONS),
        "part_size_bytes": choices.part_size_bytes,
        "public_key": signer.public_pem if signer else "",
        "base": "",
    }


def _in_order(items: Sequence[Item]) -> list[Item]:
    """Each path once: install.py first, then what is said about the bundle, then what is installed."""
    return sorted(
        {item.path: item for item in items}.values(),
        key=lambda item: (item.path != "install.py", item.path.startswith("tree/"), item.path),
    )


def _summary(items: Sequence[Item]) -> str:
    carried = sum(item.size_bytes for item in items if not item.in_base)
    left = [item for item in items if item.in_base]
    line = f"{len(items)} files, {carried / 1e6:.1f} MB carried"
    return (
        f"{line}, {len(left)} files, {sum(item.size_bytes for item in left) / 1e6:.1f} MB left to the base"
        if left
        else line
    )


def _default_target(paths: Paths, commit: str, chosen: Sequence[str], since: Path | None) -> Path:
    name = f"lstm-ctc-bundle-{commit[:12]}-{'-'.join(chosen)}" + ("-difference" if since else "")
    return paths.artifacts / "bundles" / f"{name}.tar"


def _read_me(target: Path, choices: Choices) -> str:
    first = target.name + (".001" if choices.part_size_bytes else "")
    parts = "All parts lie in one folder; the first one is named.\n" if choices.part_size_bytes else ""
    if choices.since is not None:
        parts += "This is a difference: add --base and the earlier bundle, or the folder it was installed into.\n"
    return _READ_ME.format(name=target.stem, file=first, parts=parts)


def _images(paths: Paths, chosen: Sequence[str], choices: Choices, say: Say) -> dict[str, dict[str, Image]]:
    images: dict[str, dict[str, Image]] = {}
    for architecture in chosen:
        made = obtainable(paths, architecture, lambda _: None)
        names = contents.images_to_pack(paths, made, architecture, choices.include)
        needed = files_needed(paths, names, [architecture])
        if needed and choices.fetch:
            fetch_files(paths.root, needed.values())
        images[architecture] = build_images(paths, names, architecture, say, engine_for=compiling_engine(paths))
    return images


def _bring(paths: Paths, files: Sequence[LockedFile], *, fetch: bool) -> None:
    cache = Cache(paths.root)
    missing = [file for file in files if cache.path(file.sha256) is None]
    if missing and not fetch:
        raise CouldNotRun(f"{len(missing)} locked files are not fetched, such as {missing[0].entry}",
                          hint="pack without --offline")  # fmt: skip
    if missing:
        fetch_files(paths.root, missing)


def _attestations(
    images: contents.Images, packed: Sequence[runs.PackedRun], commit: str, signer: Signer | None
) -> list[Item]:
    statements = [
        (f"image-{name}.{architecture}", image_statement(architecture, name, image, commit))
        for architecture, named in parsed("images.json", contents.describe_images(images)).items()
        for name, image in named.items()
    ]
    for run in packed:
        record = next(item for item in run.items if item.path.endswith("/record.json"))
        statements.append((f"run-{run.name}", run_statement(parsed("the record", record.content()), record.sha256)))
    return [
        Item.of_bytes(ATTESTATIONS + name, data)
        for stem, statement in statements
        for name, data in statement_files(stem, envelope(statement, signer)).items()
    ]


def _brought(folder: Path | None) -> list[Item]:
    """Statements that others signed, with their keys."""
    if folder is None:
        return []
    return [
        Item.of_bytes(ATTESTATIONS + name, read_below(folder, name, _MOST_STATEMENT_BYTES))
        for name in files_beside(folder)
    ]


def _check_statements(written: Sequence[Path]) -> None:
    """Read the statements as whoever receives the bundle will; remove it, if they would refuse it."""
    archive = Archive(written[0])
    try:
        failures = check_statements(archive.listing, archive.content, Beside(), {}).failures
    finally:
        archive.close()
    if failures:
        for path in written:
            path.unlink()
        raise VerificationFailed(
            "a statement contradicts what is packed with it, so nothing was packed",
            hint="pack only statements about these images and this run: --attestations FOLDER",
            detail="\n".join(failures),
        )


def _inventories(
    paths: Paths,
    images: contents.Images,
    wheels: Sequence[LockedFile],
    packed: Sequence[runs.PackedRun],
    choices: Choices,
) -> list[Item]:
    """What lies in the bundle, twice: the same facts in the two formats that other tools read."""
    record = packed[0].record if packed else None
    commit = repository.described(paths.root, repository.head(paths.root))
    facts = gather(paths, images, wheels, commit, choices.include, record)
    return [Item.of_bytes("sbom.cdx.json", cyclonedx(facts)), Item.of_bytes("sbom.spdx.json", spdx(facts))]


def _difference(items: Sequence[Item], since: Path) -> tuple[list[Item], str]:
    """Mark what the earlier bundle carries; small files that describe this bundle are always carried."""
    try:
        archive = Archive(since)
        archive.close()
    except Refused as error:
        raise translated(error) from error
    known = {entry.sha256 for entry in archive.listing.entries if entry.offset >= 0}
    with Console().transfer("compare") as progress:
        found = hashed(items, progress)
    marked = [
        replace(item, in_base=True) if item.sha256 in known and item.path.startswith("tree/") else item
        for item in found
    ]
    return marked, archive.listing.sha256
