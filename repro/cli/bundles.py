"""The commands `bundle.NAME` and `model.NAME`: the packed file, signatures, keys. Each imports what it runs."""

from __future__ import annotations

from typing import Any

from repro.cli import options
from repro.cli.tasking import Commands, Here, show


def add_bundles(commands: Commands) -> None:
    """Add them all."""
    every: tuple[tuple[str, type[Any], Any], ...] = (
        ("bundle.pack", options.BundlePack, bundle_pack),
        ("bundle.verify", options.BundleVerify, bundle_verify),
        ("bundle.diff", options.BundleDiff, bundle_diff),
        ("bundle.resign", options.BundleResign, bundle_resign),
        ("bundle.page", options.BundlePage, bundle_page),
        ("bundle.keys.make", options.KeysMake, keys_make),
        ("bundle.keys.show", options.SigningKey, keys_show),
        ("bundle.keys.trust", options.KeysTrust, keys_trust),
        ("model.sign", options.ModelSign, model_sign),
        ("model.verify", options.ModelVerify, model_verify),
    )
    for name, asked, body in every:
        commands.command(name, asked)(body)


def bundle_pack(asked: options.BundlePack, here: Here) -> None:
    """Pack everything into one signed file.

    Repository, images, wheels, locks and demo; never TIMIT. It is installed by the install.py that it holds.
    """
    from repro.packing.commands import pack_bundle

    for path in pack_bundle(here.paths, here.console.say, asked.parsed(), asked.to, asked.key, unsigned=asked.unsigned):
        show(path)


def bundle_verify(asked: options.BundleVerify, here: Here) -> None:
    """Verify a bundle: who signed, every byte.

    Every statement too; with --rebuilders, that so many of them confirm each image.
    """
    from repro.packing.commands import verify_and_describe

    show(verify_and_describe(asked.path, asked.key, asked.others(), first_use=asked.first_use))


def bundle_diff(asked: options.BundleDiff, here: Here) -> None:
    """Show what another bundle would change.

    Packages, licences, images, tolerances, code and statements, read from both lists and the files they describe.
    """
    from repro.packing.commands import diff_bundles

    show(diff_bundles(asked.old, asked.new))


def bundle_resign(asked: options.BundleResign, here: Here) -> None:
    """Sign a bundle's list once more, beside it.

    The bundle is verified first, and no byte of it changes: the signature lies in NAME.tar.attestations.
    """
    from repro.packing.commands import resign_bundle

    show(resign_bundle(asked.path, asked.key, asked.signer))


def bundle_page(asked: options.BundlePage, here: Here) -> None:
    """Write the page that verifies bundles in a browser.

    One file, opened from disk: it takes a bundle, needs no network and no program, and says what bundle.verify says.
    """
    from repro.packing.commands import write_page

    show(write_page(here.paths, asked.to))


def keys_make(asked: options.KeysMake, here: Here) -> None:
    """Make a signing key for this user.

    It is encrypted where BUNDLE_KEY_PASSPHRASE holds a passphrase.
    """
    from repro.packing.commands import make_signing_key

    show(make_signing_key(asked.to))


def keys_show(asked: options.SigningKey, here: Here) -> None:
    """Show this user's key and the trusted ones."""
    from repro.packing.commands import show_keys

    show(show_keys(asked.key))


def keys_trust(asked: options.KeysTrust, here: Here) -> None:
    """Trust a signer's key on this machine."""
    from repro.packing import trust_key

    show(f"trusted, in {trust_key(asked.fingerprint)}")


def model_sign(asked: options.ModelSign, here: Here) -> None:
    """Sign a model, as the OpenSSF specifies.

    The key is of P-256. The same model and key give the same signature.
    """
    from repro.packing.commands import sign_a_model

    show(sign_a_model(asked.model, asked.key, asked.to))


def model_verify(asked: options.ModelVerify, here: Here) -> None:
    """Verify a model's signature, ours or others'."""
    from repro.packing.commands import verify_a_model

    show(verify_a_model(asked.model, asked.keys, asked.signature))
