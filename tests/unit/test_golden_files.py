"""Every byte of the golden files is the one that the reference made: a flipped bit must fail here, by name."""

import hashlib
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NOT_LISTED = {"README.md", "SHA256SUMS"}


def listed_digests():
    lines = (GOLDEN / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def found_digests():
    files = (path for path in GOLDEN.rglob("*") if path.is_file())
    named = {path.relative_to(GOLDEN).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items() if name not in NOT_LISTED
    }


def test_every_golden_byte_is_the_listed_one():
    assert found_digests() == listed_digests()


def test_the_list_itself_is_the_committed_one():
    digest = hashlib.sha256((GOLDEN / "SHA256SUMS").read_bytes()).hexdigest()
    assert digest == "0a7a1be745a3c742013db56aa86ec05bcfe48d393bf5e9c097d753c7c8449b07"
