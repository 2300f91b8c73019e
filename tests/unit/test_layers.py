"""Layers and images: the same bytes whatever machine, clock, umask or order; hostile packages refused."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.paths import Paths
from repro.container.image import Image, Layer
from repro.images.layer_tars import write_blob
from repro.images.layers.debs import add_debs
from repro.images.layers.tree import SOURCE_DATE_EPOCH, Tree, clean_path, tar_chunks
from repro.images.layers.wheels import add_wheels
from repro.images.oci import compute_image, docker_archive_stream, publish
from repro.images.rootfs import Roots, chain_id

CONTROL = "Package: {name}\nVersion: 1\nArchitecture: amd64\nDescription: x\n"


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = ""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info, data


def deb(path: Path, members, name: str = "pkg", postinst: str = "") -> Path:
    control = [member("./control", CONTROL.format(name=name).encode())]
    if postinst:
        control.append(member("./postinst", postinst.encode(), mode=0o755))
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", lzma.compress(tar_of(control))),
        ("data.tar.xz", lzma.compress(tar_of(members))),
    ]
    with open(path, "wb") as stream:
        stream.write(b"!<arch>\n")
        for part, data in parts:
            stream.write(f"{part:<16}{int(time.time()):<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            stream.write(data + b"\n" * (len(data) % 2))
    return path


def wheel(path: Path, files: dict[str, bytes], name: str = "demo", scripts: str = "") -> Path:
    info = f"{name}-1.0.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        whole[f"{info}/entry_points.txt"] = scripts.encode()
    record = "".join(f"{n},,\n" for n in whole) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in {**whole, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(file, data)
    return path


def build(tmp_path: Path, fill) -> tuple[str, dict[str, tarfile.TarInfo], bytes]:
    """(diff ID, members, the tar) of the layer that `fill(tree)` makes."""
    tmp_path.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tmp_path) as contents:
        tree = Tree(Path(contents))
        fill(tree)
        diff_id, size = write_blob(tmp_path / "blobs", tar_chunks(tree.members()))
    data = (tmp_path / "blobs" / diff_id[7:]).read_bytes()
    assert len(data) == size
    assert diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return diff_id, {m.name: m for m in archive}, data


PLAIN = [
    member("./", kind=tarfile.DIRTYPE, mode=0o755),
    member("./bin", kind=tarfile.DIRTYPE, mode=0o755),
    member("./bin/tool", b"\x7fELF", mode=0o4755),
    member("./usr/share/man/man1/tool.1.gz", b"manual"),
    member("./usr/share/doc/pkg/copyright", b"licence"),
    member("./usr/share/doc/pkg/changelog.gz", b"changes"),
    member("./usr/bin/hard", kind=tarfile.LNKTYPE, link="./bin/tool"),
]


def test_a_debs_layer_is_merged_normalised_and_free_of_setuid(tmp_path: Path):
    package = deb(tmp_path / "a", PLAIN)
    _, members, _ = build(tmp_path, lambda tree: add_debs(tree, [("pkg", package)], {}, "var/lib/dpkg/status"))
    assert members["usr/bin/tool"].mode == 0o755
    assert members["bin"].linkname == "usr/bin"
    assert members["usr/bin/hard"].isreg()
    assert "usr/share/doc/pkg/copyright" in members
    assert "usr/share/doc/pkg/changelog.gz" not in members
    assert not any(name.startswith("usr/share/man") for name in members)
    assert {m.mtime for m in members.values()} == {SOURCE_DATE_EPOCH}
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, "", "")}
    assert list(members) == sorted(members)


def test_a_layer_has_the_same_bytes_at_another_time_umask_zone_and_order(tmp_path: Path, monkeypatch):
    packages = [
        ("one", deb(tmp_path / "1", PLAIN, "one")),
        ("two", deb(tmp_path / "2", [member("./etc/x", b"y")], "two")),
    ]
    first, _, _ = build(tmp_path / "here", lambda tree: add_debs(tree, packages, {}, "var/lib/dpkg/status"))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setattr(time, "time", lambda: 1.0)
    old = os.umask(0o077)
    try:
        second, _, _ = build(tmp_path / "there", lambda tree: add_debs(tree, packages[::-1], {}, "var/lib/dpkg/status"))
    finally:
        os.umask(old)
    assert first == second


@given(
    st.dictionaries(st.text("abcü/", min_size=1, max_size=120).map(clean_path).filter(bool), st.binary(max_size=600))
)
@settings(max_examples=60)
def test_the_order_in_which_files_are_added_does_not_matter(tmp_path_factory, files):
    taken: set[str] = set()
    usable = {}
    for path in sorted(files):  # a path that is another one's folder cannot be a file
        if not any(path.startswith(other + "/") for other in taken):
            taken.add(path)
            usable[path] = files[path]
    folder = tmp_path_factory.mktemp("layer")

    def fill(order):
        return lambda tree: [tree.file(path, usable[path]) for path in order]

    shuffled = list(usable)
    random.Random(0).shuffle(shuffled)
    one, members, _ = build(folder, fill(list(usable)))
    two, _, _ = build(folder, fill(shuffled))
    assert one == two
    assert {n for n, m in members.items() if m.isreg()} == set(usable)


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../etc/passwd", b"x"),
        member("usr/../../x", b"x"),
        member("usr/dev", kind=tarfile.CHRTYPE),
        member("usr/pipe", kind=tarfile.FIFOTYPE),
        member("usr/hard", kind=tarfile.LNKTYPE, link="usr/not-there"),
    ],
)
def test_a_package_that_holds_what_a_layer_must_not_is_refused(tmp_path: Path, hostile):
    package = deb(tmp_path / "a", [hostile])
    with pytest.raises(VerificationFailed):
        build(tmp_path, lambda tree: add_debs(tree, [("pkg", package)], {}, "var/lib/dpkg/status"))
    assert not list((tmp_path).glob("blobs/*"))


def test_a_disk_that_takes_a_part_of_a_file_is_an_error_of_the_disk_and_no_shorter_file(tmp_path: Path):
    """A write that the system cuts short says so by its count alone, where a buffer does not go on with the rest."""
    script = (
        "import io, pathlib, resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from repro.images.layers.tree import Tree\n"
        "tree = Tree(pathlib.Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    print('taken for whole', tree.add(io.BytesIO(bytes(1500))))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "contents")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(errno.EFBIG)]


@pytest.mark.parametrize("data", [b"", b"!<arch>\nshort", b"not a package at all", b"!<arch>\n" + b"x" * 60])
def test_what_is_not_a_package_is_refused_by_name(tmp_path: Path, data: bytes):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(VerificationFailed, match="pkg"):
        build(tmp_path, lambda tree: add_debs(tree, [("pkg", tmp_path / "a")], {}, "s"))


def test_alternatives_without_an_entry_fail_the_build_and_with_one_make_the_links(tmp_path: Path):
    package = deb(
        tmp_path / "a", [member("./usr/bin/mawk", b"x")], "mawk", "update-alternatives --install /usr/bin/awk"
    )
    with pytest.raises(CouldNotRun, match="mawk") as caught:
        build(tmp_path, lambda tree: add_debs(tree, [("mawk", package)], {}, "s"))
    assert "[alternatives.mawk]" in caught.value.hint
    links = {"mawk": {"usr/bin/awk": "/usr/bin/mawk"}}
    _, members, _ = build(tmp_path, lambda tree: add_debs(tree, [("mawk", package)], links, "s"))
    assert members["usr/bin/awk"].linkname == "/usr/bin/mawk"


def test_a_comment_about_alternatives_is_not_a_call(tmp_path: Path):
    package = deb(tmp_path / "a", [], postinst="# update-alternatives was here\nexit 0\n")
    build(tmp_path, lambda tree: add_debs(tree, [("pkg", package)], {}, "s"))


def test_a_wheel_is_installed_with_the_image_s_interpreter_and_no_path_of_this_machine(tmp_path: Path):
    file = wheel(
        tmp_path / "0123abcd",
        {"demo/__init__.py": b"x = 1\n", "demo/__pycache__/a.cpython-311.pyc": b"compiled"},
        scripts="[console_scripts]\ndemo = demo:main\n",
    )
    _, members, data = build(
        tmp_path,
        lambda tree: add_wheels(tree, [("demo-1.0-py3-none-any.whl", file)], "/usr/bin/python3", "usr/local/lib/p"),
    )
    assert "usr/local/lib/p/demo/__init__.py" in members
    assert not any(name.endswith(".pyc") for name in members)
    assert members["usr/local/bin/demo"].mode == 0o755
    assert b"#!/usr/bin/python3" in data
    assert str(tmp_path).encode() not in data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        record = archive.extractfile("usr/local/lib/p/demo-1.0.dist-info/RECORD").read().decode()
    assert "demo/__init__.py,sha256=" in record
    assert "/usr/local/bin/demo,sha256=" in record


def test_a_large_file_of_a_wheel_is_never_whole_in_memory(tmp_path: Path):
    data = bytes(64 << 20)  # PyTorch's largest library is of 1.1 GB
    file = wheel(tmp_path / "large", {"demo/large.bin": data})
    tree = Tree(tmp_path / "contents")
    tracemalloc.start()
    try:
        add_wheels(tree, [("demo-1.0-py3-none-any.whl", file)], "/usr/bin/python3", "p")
        diff_id, size_bytes = write_blob(tmp_path / "blobs", tar_chunks(tree.members()))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20 < len(data) < size_bytes
    finally:
        tracemalloc.stop()
    record = tree_file(tmp_path / "blobs" / diff_id[7:], "p/demo-1.0.dist-info/RECORD").decode()
    expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    assert f"demo/large.bin,sha256={expected},{len(data)}\n" in record.replace("\r", "")


def tree_file(blob: Path, name: str) -> bytes:
    with tarfile.open(blob) as archive:
        return archive.extractfile(name).read()


def test_two_wheels_with_the_same_file_are_refused(tmp_path: Path):
    one = wheel(tmp_path / "1", {"same.py": b"1"}, "one")
    two = wheel(tmp_path / "2", {"same.py": b"2"}, "two")
    named = [("one-1.0-py3-none-any.whl", one), ("two-1.0-py3-none-any.whl", two)]
    with pytest.raises(VerificationFailed, match=r"same\.py"):
        build(tmp_path, lambda tree: add_wheels(tree, named, "/usr/bin/python3", "p"))


def layer(tmp_path: Path, name: str, fill) -> Layer:
    diff_id, _, data = build(tmp_path, fill)
    return Layer(name, "debs", diff_id, len(data), tmp_path / "blobs" / diff_id[7:], "sha256:lock")


def two_layers(tmp_path: Path) -> Image:
    def below(tree: Tree) -> None:
        tree.file("etc/kept", b"below")
        tree.file("etc/replaced", b"below")
        tree.symlink("lib", "usr/lib")
        tree.file("usr/lib/x", b"x")

    layers = [
        layer(tmp_path, "below", below),
        layer(tmp_path, "above", lambda tree: tree.file("etc/replaced", b"above", 0o755)),
    ]
    return compute_image("pair", "amd64", layers, {"LANG": "C.UTF-8"}, "3.11", "two layers")


def test_an_image_s_identity_is_that_of_its_bytes_and_independent_of_time(tmp_path: Path):
    one, two = two_layers(tmp_path), two_layers(tmp_path)
    assert one.config_digest == two.config_digest == "sha256:" + hashlib.sha256(one.config).hexdigest()
    assert one.manifest_digest == "sha256:" + hashlib.sha256(one.manifest).hexdigest()
    assert json.loads(one.config)["rootfs"]["diff_ids"] == [item.diff_id for item in one.layers]
    other = compute_image("pair", "amd64", one.layers, {"LANG": "C"}, "3.11", "two layers")
    assert other.config_digest != one.config_digest


def test_the_archive_is_an_oci_layout_and_a_docker_archive_with_shared_layers_once(tmp_path: Path):
    image = two_layers(tmp_path)
    twin = compute_image("twin", "amd64", image.layers, {}, "3.11", "the same layers")
    data = b"".join(docker_archive_stream([image, twin]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names))
        for name in names:
            if name.startswith("blobs/sha256/"):
                content = archive.extractfile(name).read()
                assert hashlib.sha256(content).hexdigest() == name[len("blobs/sha256/") :]
        listed = json.loads(archive.extractfile("manifest.json").read())
        index = json.loads(archive.extractfile("index.json").read())
    assert [item["Config"][13:] for item in listed] == [image.config_digest[7:], twin.config_digest[7:]]
    assert {item["digest"] for item in index["manifests"]} == {image.manifest_digest, twin.manifest_digest}
    assert data == b"".join(docker_archive_stream([image, twin]))


def test_publishing_replaces_an_image_of_the_same_name_and_keeps_the_others(tmp_path: Path):
    paths = Paths(tmp_path)
    image = two_layers(tmp_path)
    newer = compute_image("pair", "amd64", image.layers[:1], {}, "3.11", "newer")
    other = compute_image("other", "arm64", image.layers, {}, "3.11", "other")
    for item in (image, other, newer, newer):
        publish(paths, item)
    digests = {item["digest"] for item in json.loads((paths.oci / "index.json").read_bytes())["manifests"]}
    assert digests == {newer.manifest_digest, other.manifest_digest}


def test_an_unpacked_root_shows_the_upper_layer_and_is_unpacked_once(tmp_path: Path):
    paths, image = Paths(tmp_path), two_layers(tmp_path)
    root = Roots(paths).of(image)
    assert (root / "etc" / "replaced").read_bytes() == b"above"
    assert os.readlink(root / "lib") == "usr/lib"
    inode = root.stat().st_ino
    assert Roots(paths).of(image) == root
    assert root.stat().st_ino == inode
    assert {path.name for path in paths.rootfs.iterdir()} == {chain_id(image.layers), "layers"}


@pytest.mark.parametrize(
    "hostile",
    [
        lambda tree: tree.file("a/../../x", b"x"),
        lambda tree: (tree.symlink("a", "/etc"), tree.file("a/passwd", b"x")),
    ],
)
def test_a_layer_that_leaves_its_folder_is_not_unpacked(tmp_path: Path, hostile):
    broken = layer(tmp_path, "broken", hostile)
    image = compute_image("broken", "amd64", [broken], {}, "3.11", "x")
    with pytest.raises(VerificationFailed):
        Roots(Paths(tmp_path)).of(image)
    assert list((tmp_path / "artifacts" / "rootfs" / "layers").iterdir()) == []
