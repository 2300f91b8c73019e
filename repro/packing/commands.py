"""What the bundle.* commands do: options turned into choices, outcomes into words."""

from __future__ import annotations

from pathlib import Path

from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes, write_atomic
from repro.base.foreign import shown
from repro.base.paths import Paths, given_path
from repro.packing.difference import describe
from repro.packing.installer.listing import Refused
from repro.packing.installer.trust import trusted_keys
from repro.packing.pack import Choices, Say, pack
from repro.packing.page import verify_page
from repro.packing.resign import resign
from repro.packing.signing import Signer, default_key_path, load_key, load_model_key, make_key
from repro.packing.verify import (
    NOBODY,
    BundleReport,
    Rebuilders,
    is_installed,
    translated,
    verify_bundle,
    verify_installed,
)
from repro.run.model_signature import SUFFIX, hint_of, public_keys, sign_model, verify_model


def pack_bundle(paths: Paths, say: Say, choices: Choices, to: str, key: str, *, unsigned: bool) -> list[Path]:
    """`bundle.pack`: see `repro.packing.pack.pack`; `key` is the private key's file, '' for this user's."""
    if unsigned and key:
        raise UsageError("--unsigned and --key contradict each other", hint="leave out one of them")
    if choices.run_detail and not choices.run:
        raise UsageError("--run-detail says how much of a run to pack, but no run is named", hint="--run latest")
    return pack(paths, choices, None if unsigned else load_key(_key_path(key)), to, say)


def _key_path(key: str) -> Path:
    return given_path("--key", key) if key else default_key_path()


def verify_and_describe(path: str, key: str, rebuilders: Rebuilders = NOBODY, *, first_use: bool) -> str:
    """`bundle.verify`: who signed, whether that key is trusted here, every byte, and every statement.

    Raises:
        VerificationFailed: something is wrong; everything that is, is named.
        CouldNotVerify: nobody signed, or nobody who is trusted here.
    """
    keys = [key] if key else []
    place = given_path("the bundle", path)
    if is_installed(place):
        report = verify_installed(place, keys, rebuilders)
    else:
        report = verify_bundle(place, keys, rebuilders, first_use=first_use)
    if report.failures:
        raise VerificationFailed(
            f"{path}: {len(report.failures)} things are not as the list says", detail="\n".join(report.failures),
            hint="do not use it: get the bundle again, and install it into a new folder",
        )  # fmt: skip
    if report.trust == "unsigned":
        raise CouldNotVerify(
            f"{path}: every byte is as listed, but nobody signed the list", hint="ask for a signed one"
        )
    if report.trust == "unknown":
        raise CouldNotVerify(
            f"{path}: every byte is as listed and signed by {report.signer}, which is not trusted on this machine",
            hint="learn the fingerprint from the maker by another way: --key FINGERPRINT, or bundle.keys.trust",
        )
    rebuilders.insist(report)
    return _describe(report)


def _describe(report: BundleReport) -> str:
    how = {"pinned": "a trusted key", "first use": "a key trusted here since its first use"}[report.trust]
    lines = [
        f"verified: {report.files} files, {report.size_bytes / 1e6:.1f} MB, every byte as listed",
        f"signed by {how}: {report.relied_on}",
        *(f"the list is also signed by {key}" for key in report.also),
        f"list: sha256 {report.list_sha256}",
        f"repository: commit {report.about['commit']}",
    ]
    if report.about["base"]:
        lines.append(f"a difference: it needs the bundle whose list has sha256 {report.about['base']}")
    if report.statements:
        lines.append(f"statements: {len(report.statements)}, each signed, none contradicts the bundle")
    lines += [item.sentence() for item in report.rebuilt]
    lines += [f"not covered by the list: {place}" for place in report.not_covered]
    notes = sorted(report.about["contents"]["licence_notes"].items())
    lines += [f"note: {shown(name)}: {shown(text)}" for name, text in notes]
    return "\n".join(lines)


def resign_bundle(path: str, key: str, signer: str) -> str:
    """`bundle.resign`: sign the list of a bundle once more, after it was verified as `bundle.verify` does.

    Args:
        path: the bundle.
        key: the private key's file, '' for this user's.
        signer: fingerprint of the first signer's key; '' for the keys trusted on this machine.

    Raises:
        VerificationFailed, CouldNotVerify: as `verify_and_describe`; nothing is signed.
    """
    mine = load_key(_key_path(key))
    said = verify_and_describe(path, signer, NOBODY, first_use=False)
    folder = resign(given_path("the bundle", path), mine)
    return f"{said}\nsigned once more by {mine.fingerprint}: {folder}"


def write_page(paths: Paths, to: str) -> str:
    """`bundle.page`: the page that verifies bundles in a browser, and its digest to be told to others."""
    path, page = given_path("--to", to) if to else paths.artifacts / "verify.html", verify_page()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    return f"{paths.told(path)}\nsha256 {sha256_bytes(page)}"


def diff_bundles(old: str, new: str) -> str:
    """`bundle.diff`: see `repro.packing.difference.describe`."""
    return describe(given_path("the old bundle", old), given_path("the new bundle", new))


def sign_a_model(model: str, key: str, to: str) -> str:
    """`model.sign`: sign a file, or every file of a folder, after the OpenSSF model signing specification.

    Args:
        model: a checkpoint, an exported or converted network, or a folder.
        key: the file of the private key, of P-256.
        to: the signature's file; '' for MODEL.sig, and for model.sig in a folder.

    Raises:
        UsageError: there is no such model.
        NotPlain: the folder holds a link, or another thing that is no plain file.
    """
    place, private = _model(model), load_model_key(given_path("--key", key))
    target = given_path("--to", to) if to else _signature_of(place)
    inside = target.resolve()
    ignored = [inside.relative_to(place.resolve()).as_posix()] if inside.is_relative_to(place.resolve()) else []
    write_atomic(target, sign_model(place, private, ignored))
    return f"signed by the P-256 key {hint_of(private.public_key())}: {target}"


def verify_a_model(model: str, keys: str, signature: str) -> str:
    """`model.verify`: hold a model to its signature. Errors as `verify_model`."""
    place = _model(model)
    beside = given_path("--signature", signature) if signature else _signature_of(place)
    if not beside.is_file():
        raise CouldNotVerify(f"there is no signature {beside}", hint="name it: --signature FILE")
    said = verify_model(place, beside, public_keys(given_path("--keys", keys)))
    return f"verified: {len(said.files)} files, signed by the P-256 key {said.signer}"


def _model(text: str) -> Path:
    place = given_path("the model", text)
    if not place.exists():
        raise UsageError(f"{text}: there is no such file or folder")
    return place


def _signature_of(model: Path) -> Path:
    return model / f"model{SUFFIX}" if model.is_dir() else model.with_name(model.name + SUFFIX)


def make_signing_key(to: str) -> str:
    """`bundle.keys.make`: a new key, and what to do with its fingerprint."""
    path = _key_path(to)
    signer = make_key(path)
    return f"{path}\n{_about(signer)}\ntell this fingerprint to those who will verify, by another way than the bundle"


def show_keys(key: str) -> str:
    """`bundle.keys.show`: this user's key, if there is one, and the keys trusted on this machine."""
    path = _key_path(key)
    lines = [_about(load_key(path))] if path.exists() or key else [f"no signing key in {path}"]
    try:
        known = trusted_keys()
    except Refused as error:
        raise translated(error) from error
    lines += [f"trusted here ({how}): {fingerprint}" for fingerprint, how in sorted(known.items())]
    return "\n".join(lines)


def _about(signer: Signer) -> str:
    return f"fingerprint {signer.fingerprint}\n{signer.public_pem.rstrip()}"
