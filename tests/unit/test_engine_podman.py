"""Podman without root: whether this user can start containers at all is known before a run relies on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from repro.base.errors import EngineUnavailable
from repro.engines import podman
from repro.engines.podman import lacks_subordinate_ids, policy_knows, unknown_mount_label


def etc(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_conf", ".conf")).write_text(text)
    return folder


@pytest.mark.parametrize("owner", ["ada", "1000"])
def test_a_user_with_ranges_by_name_or_number_lacks_nothing(tmp_path: Path, owner: str):
    folder = etc(tmp_path, subuid=f"{owner}:100000:65536\n", subgid=f"bob:1:2\n{owner}:100000:65536\n")
    assert lacks_subordinate_ids(folder, 1000, "ada") == ""


def test_a_missing_range_is_named_by_its_file(tmp_path: Path):
    assert lacks_subordinate_ids(tmp_path, 1000, "ada") == "subuid"
    etc(tmp_path, subuid="ada:100000:65536\n", subgid="adam:100000:65536\n")
    assert lacks_subordinate_ids(tmp_path, 1000, "ada") == "subgid"


def test_ranges_from_a_directory_service_are_not_looked_for_in_files(tmp_path: Path):
    assert lacks_subordinate_ids(etc(tmp_path, nsswitch_conf="passwd: files\nsubid: sss\n"), 1000, "ada") == ""
    assert lacks_subordinate_ids(etc(tmp_path, nsswitch_conf="subid: files\n"), 1000, "ada") == "subuid"


LABEL = "system_u:object_r:container_file_t:s0"


def machine(root: Path, contexts: str) -> Path:
    """A root of a machine with SELinux, whose policy has these contexts for containers."""
    (root / "sys/fs/selinux").mkdir(parents=True)
    folder = root / "etc/selinux/targeted/contexts"
    folder.mkdir(parents=True)
    (root / "etc/selinux/config").write_text("# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    (folder / "lxc_contexts").write_text(contexts)
    return root


def test_a_context_that_the_policy_does_not_know_is_found(tmp_path: Path):
    asked = []
    root = machine(tmp_path, f'process = "system_u:system_r:container_t:s0"\nfile = "{LABEL}"\nro_file = "other"\n')
    assert unknown_mount_label(root, lambda *given: asked.append(given) or False) == LABEL
    assert asked == [(root / "sys/fs/selinux", LABEL)]
    assert unknown_mount_label(root, lambda *_: True) == ""


def test_without_selinux_or_contexts_for_containers_nothing_is_asked(tmp_path: Path):
    assert unknown_mount_label(tmp_path, lambda *_: False) == ""
    assert unknown_mount_label(machine(tmp_path, "content = other\n"), lambda *_: False) == ""
    (tmp_path / "etc/selinux/config").write_text("SELINUX=enforcing\n")
    assert unknown_mount_label(tmp_path, lambda *_: False) == ""


def test_the_policy_is_asked_as_the_kernel_answers(tmp_path: Path):
    """Two files that answer a write as the kernel's does: with EINVAL for what it does not know, or otherwise."""
    assert policy_knows(tmp_path, LABEL)  # nobody to ask
    (tmp_path / "context").symlink_to("/proc/self/oom_score_adj")
    assert not policy_knows(tmp_path, LABEL)
    (tmp_path / "context").unlink()
    (tmp_path / "context").symlink_to("/dev/full")
    assert policy_knows(tmp_path, LABEL)
    (tmp_path / "context").unlink()
    (tmp_path / "context").write_bytes(b"")
    assert policy_knows(tmp_path, LABEL) and (tmp_path / "context").read_bytes() == LABEL.encode() + b"\0"


@pytest.mark.parametrize("odd", ["open to others", "a link", "a file"])
def test_a_folder_for_sockets_that_others_could_use_is_refused_by_name(tmp_path, monkeypatch, odd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = podman._own_folder()
    assert podman._own_folder() == folder and folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    if odd == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif odd == "a file":
        folder.touch(0o600)
    else:
        folder.mkdir()
        folder.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="not this user's own"):
        podman._own_folder()
