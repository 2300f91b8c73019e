"""`bundle.verify FOLDER`: every listed file, its mode, and by name everything that no list names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import remove_tree
from repro.packing.commands import verify_and_describe
from repro.packing.installer import install
from repro.packing.verify import verify_installed, write_files
from tests.unit import _bundle_cases as cases

KEY = cases.signer().fingerprint


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder with the files of a bundle."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    install.run([str(cases.pack(tmp_path)), "--key", KEY, "--files-only", "--to", str(tmp_path / "site")])
    return tmp_path / "site"


def failures(site: Path) -> str:
    return "\n".join(verify_installed(site, [KEY]).failures)


def test_a_folder_as_it_was_installed_is_verified(site):
    report = verify_installed(site, [KEY])
    assert report.verified and report.failures == () and report.not_covered == ()


def plant(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "extra",
    ["requests.py", "repro/evil.py", "artifacts/received/20991231T000000Z/record.json", "conf/locks/debs/x.json",
     "artifacts/received/20260101T000000Z/results/score/score.json", "artifacts/oci/blobs/sha256/" + "0" * 64,
     "artifacts/wheels/evil-1.0-py3-none-any.whl", "artifacts/bundle/x", "data/demo/x", "a name\x1b[31m"],
)  # fmt: skip
def test_what_no_list_names_is_a_failure_by_name(site, extra):
    plant(site / extra)
    said = failures(site)
    assert "that the list does not name" in said and said.replace("\n", "").isprintable()
    assert extra.split("/")[0][:6] in said


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_an_extra_thing_of_any_kind_is_a_failure(site, kind):
    path = site / "stages"
    {"link": lambda: path.symlink_to("/etc"), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    assert failures(site).startswith("stages: a ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.unlink(), "missing"),
        (lambda p: p.write_text("changed"), "its content was changed"),
        (lambda p: p.chmod(0o644), "its mode was changed to 0644"),
        (lambda p: p.chmod(0o4755), "its mode was changed to 4755"),
        (lambda p: _replace(p, lambda: p.symlink_to("ready")), "not a plain file"),
        (lambda p: _replace(p, lambda: os.mkfifo(p)), "not a plain file"),
        (lambda p: _replace(p, p.mkdir), "not a plain file"),
    ],
)
def test_a_listed_file_that_is_not_as_listed_is_named(site, change, said):
    change(site / "bootstrap")
    assert f"bootstrap: {said}" in failures(site)


def _replace(path: Path, make) -> None:
    path.unlink()
    make()


def test_a_folder_above_a_listed_file_that_is_a_link_is_not_followed(site, tmp_path):
    (site / "conf").rename(tmp_path / "conf")
    (site / "conf").symlink_to(tmp_path / "conf")
    said = failures(site)
    assert "conf: a link" in said and "conf/locks/debs/base.amd64.json: not a plain file" in said


def test_what_this_machine_made_is_said_to_be_not_covered(site, capsys):
    for made in (".venv/bin/python", "artifacts/rootfs/ab/etc/passwd", "artifacts/store/ab/x", "data/TIMIT/x",
                 "conf/site.toml", "repro/__pycache__/x.pyc", "data/user.lock.json",
                 "artifacts/oci/.lock"):  # fmt: skip
        plant(site / made)
    (site / "repro" / "__pycache__" / "x.pyc").unlink()
    (site / "repro" / "__pycache__").rmdir()
    (site / "repro").rmdir()
    report = verify_installed(site, [KEY])
    assert report.verified
    said = verify_and_describe(str(site), KEY, first_use=False)
    for place in (".venv (the", "artifacts/rootfs (unp", "artifacts/store", "data/TIMIT", "conf/site.toml"):
        assert f"not covered by the list: {place}" in said


def test_compiled_code_beside_the_sources_is_said_to_be_not_covered(site):
    plant(site / "requirements" / "__pycache__" / "x.pyc")
    assert verify_installed(site, [KEY]).not_covered == ("__pycache__ (compiled code)",)


def test_thousands_of_folders_below_each_other_are_no_defect(site):
    here = os.open(site, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    said = failures(site)
    remove_tree(site)
    assert said == "d: a folder that the list does not name"


def test_a_folder_without_a_list_could_not_be_verified(tmp_path):
    with pytest.raises(CouldNotVerify, match="was not installed from a bundle"):
        verify_installed(tmp_path)


def test_bundle_verify_of_a_folder_ends_with_what_is_wrong(site):
    plant(site / "requests.py")
    with pytest.raises(VerificationFailed, match="1 things") as caught:
        verify_and_describe(str(site), KEY, first_use=False)
    assert "requests.py: a file that the list does not name" in caught.value.detail


def test_files_are_written_for_an_examination_without_a_word(site, tmp_path, capsys):
    """An audit writes a bundle's files into a folder that it removes: nobody is told to go there."""
    write_files(tmp_path / "small.tar", tmp_path / "looked-at" / "tree")
    assert capsys.readouterr().out == ""
    assert (tmp_path / "looked-at" / "tree" / "bootstrap").read_bytes() == (site / "bootstrap").read_bytes()


def test_a_changed_byte_is_not_written_for_an_examination(site, tmp_path):
    data = (tmp_path / "small.tar").read_bytes()
    (tmp_path / "small.tar").write_bytes(data.replace(b"invoke==1", b"invoke==2"))
    with pytest.raises(VerificationFailed):
        write_files(tmp_path / "small.tar", tmp_path / "looked-at" / "tree")
