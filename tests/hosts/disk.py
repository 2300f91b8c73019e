"""A host's disk, made of its distribution's packages and kept below artifacts/hosts by what it is made of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import CouldNotRun
from repro.base.files import canonical_json, fsync_folder, sha256_bytes
from repro.base.locking import locked
from repro.base.programs import find
from repro.base.temporary import temporary_folder
from repro.machine.emulation import emulation
from tests.hosts import model
from tests.hosts import site as sites
from tests.hosts.model import HERE, Host

# What README asks of a machine, and what the harness itself needs.
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "procps", "iproute2",
             "initramfs-tools", "openssh-server", "ca-certificates", "python3", "python3-venv")  # fmt: skip
USER = "lab"
# All that QEMU's machine needs to find its root. The distribution's choice, every module that might be needed anywhere,
# takes half an hour where each of its programs is emulated.
_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_FORMAT = 1  # raised where this module makes another disk of the same recipe


@dataclass(frozen=True)
class Disk:
    """A made disk: the root file system, and what QEMU boots it with."""

    image: Path
    kernel: Path
    initrd: Path


def key_pair(folder: Path) -> Path:
    """The private key with which the harness logs in; its public half lies beside it."""
    key = folder / "key"
    if not key.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hosts", "-f", key], check=True)
    return key


def recipe(host: Host, site: sites.Site, key: Path) -> str:
    """What a disk's name is made of: equal recipes, one disk."""
    authorities = [sha256_bytes(path.read_bytes()) for path in site.authorities]
    made_of = {
        "host": [host.suite, host.arch, host.kernel, host.packages, host.disk, host.disk_gib],
        "site": [site.addresses, site.proxies, site.mirror, authorities],
        "key": key.with_suffix(".pub").read_text(),
        "code": [_FORMAT, _PACKAGES, (HERE / "inside.sh").read_text()],
    }  # fmt: skip
    return sha256_bytes(canonical_json(made_of))[:16]


def make(host: Host, folder: Path) -> Disk:
    """The host's disk; made where there is none of the same recipe. Those of no host any more are removed.

    Args:
        folder: artifacts/hosts.

    Raises:
        CouldNotRun: a program is missing, or the packages could not be installed.
    """
    for program in ("mmdebstrap", "mke2fs", "ssh-keygen"):
        if find(program, [*os.environ["PATH"].split(":"), "/sbin", "/usr/sbin"]) is None:
            raise CouldNotRun(f"{program} is not here", hint="Debian: apt install mmdebstrap e2fsprogs openssh-client")
    key, site = key_pair(folder), sites.of_this_machine()
    place = folder / "disks" / recipe(host, site, key)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_dir():
        with locked(folder):  # one at a time; a temporary folder needs the lock on `disks` itself
            _publish(host, site, key, place)
    wanted = {recipe(model.load(name), site, key) for name in model.names()}
    for old in place.parent.iterdir():
        if re.fullmatch(r"[0-9a-f]{16}", old.name) and old.name not in wanted:
            shutil.rmtree(old)
    return Disk(place / "root.img", place / "vmlinuz", place / "initrd.img")


def _publish(host: Host, site: sites.Site, key: Path, place: Path) -> None:
    """Make the disk and give it its name, unless another process did."""
    if place.is_dir():
        return
    with temporary_folder(place.parent, "disk") as work:
        _make(host, site, key, work)
        fsync_folder(work / "done")
        (work / "done").rename(place)


def _make(host: Host, site: sites.Site, key: Path, work: Path) -> None:
    """Install the packages into `work`/root, set it up, and write image, kernel and initrd into `work`/done."""
    done, root = work / "done", work / "root"
    done.mkdir()
    (work / "public").write_bytes(key.with_suffix(".pub").read_bytes())
    hook = f"{sys.executable} -m tests.hosts.disk {work}"
    (work / "more.sh").write_text(f"set -eu\n{host.disk}\n")
    mirrors = [f"deb {site.mirror} {host.suite} main"] if site.mirror else []  # else mmdebstrap's own
    command = [
        "mmdebstrap", "--variant=minbase", "--skip=check/qemu", f"--architectures={host.arch}",
        f"--include={','.join((*_PACKAGES, host.kernel, *host.packages))}",
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        f"--essential-hook={_initrd('$1')}",
        f"--customize-hook={hook} \"$1\"", f"--customize-hook=sh {HERE / 'inside.sh'} \"$1\" {USER}",
        f"--customize-hook=sh {work / 'more.sh'} \"$1\"",
        host.suite, str(root), *mirrors,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    log = work.parent / "last.log"
    with open(log, "wb") as stream:
        outcome = subprocess.run(
            [*_emulated(host.arch), "nice", "-n", "10", *command], cwd=HERE.parents[1], env=environment,
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if outcome.returncode:
        raise CouldNotRun(f"the disk of {host.title} could not be made", detail=log.read_text(errors="replace")[-3000:])
    for wanted in ("vmlinuz", "initrd.img"):
        newest = sorted((root / "boot").glob(f"{wanted}-*"))[-1]
        shutil.copyfile(newest, done / wanted)
    image = done / "root.img"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), "-L", "root", str(image), f"{host.disk_gib}G"],
        check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"},
    )  # fmt: skip
    # In a user namespace, mmdebstrap gave the tree's files to users whom only such a namespace may remove.
    removing = ["rm", "-rf", str(root)]
    subprocess.run(["mmdebstrap", "--unshare-helper", *removing] if os.getuid() else removing, check=True)


def _initrd(root: str) -> str:
    """Shell that says what the initrd holds, before a kernel is installed and makes it."""
    conf, modules = f'"{root}/etc/initramfs-tools/conf.d', f'"{root}/usr/share/initramfs-tools/modules.d'
    return (
        f'mkdir -p {conf}" {modules}" && echo MODULES=list >{conf}/few" && '
        f"printf '%s\\n' {' '.join(_MODULES)} >{modules}/few\""
    )


def _emulated(arch: str) -> tuple[str, ...]:
    """What to put before a command that runs another architecture's programs."""
    found = emulation(arch)
    if not found.works:
        raise CouldNotRun(f"programs of {arch} do not run here: {found.how}", hint=found.hint)
    *_, rule = found.enter or ("",)
    return (sys.executable, "-m", "tests.hosts.foreign", rule) if rule else ()


if __name__ == "__main__":  # a hook of mmdebstrap: WORK ROOT
    sites.of_this_machine().apply(Path(sys.argv[2]))
    authorized = Path(sys.argv[2]) / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_bytes((Path(sys.argv[1]) / "public").read_bytes())
