"""CANN's packages, stood in for: installers with its file names and flags, and the two wheels beside them.

What they install computes on a CPU, and says so: /usr/local/Ascend/SIMULATOR, which every probe looks for.
"""

from __future__ import annotations

import gzip
import io
import platform
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAYLOAD = Path(__file__).parent / "payload"
CORPUS = Path(__file__).resolve().parents[2] / "data" / "ascend"
VERSION = "6.3.RC1"

# The flags of CANN's installers that a silent installation uses; any other is refused, as theirs do.
_INSTALLER = """#!/bin/sh
set -e
quiet=no install=no prefix=
for word in "$@"; do
    case $word in
        --quiet) quiet=yes ;;
        --install) install=yes ;;
        --install-for-all) ;;
        --install-path=/*) prefix=${{word#--install-path=}} ;;
        --check) echo "Verifying archive integrity...  100%   SHA256 checksums are OK. All good."; exit 0 ;;
        *) echo "Unrecognized flag : $word"; exit 1 ;;
    esac
done
[ "$install" = yes ] || {{ echo "Error: nothing to do"; exit 1; }}
[ "$quiet" = yes ] || {{ echo "Do you accept the EULA to install CANN? [Y/N]"; exit 1; }}
[ -n "$prefix" ] || {{ echo "Error: no --install-path"; exit 1; }}
if [ "$(id -u)" = 0 ]; then
    getent passwd HwHiAiUser > /dev/null || {{ echo "ERR_NO:0x0091: HwHiAiUser not exists"; exit 1; }}
fi
mkdir -p "$prefix"
sed '1,/^__PAYLOAD__$/d' "$0" | tar -xz -C "$prefix"
{after}
date > "$prefix/install_of_{name}.log"
echo "{name} install success"
exit 0
__PAYLOAD__
"""
_SET_ENV = """export ASCEND_TOOLKIT_HOME=@PREFIX@/{home}
export LD_LIBRARY_PATH=$ASCEND_TOOLKIT_HOME/lib64:$LD_LIBRARY_PATH
export PATH=$ASCEND_TOOLKIT_HOME/bin:$PATH
export ASCEND_OPP_PATH=$ASCEND_TOOLKIT_HOME/opp
"""
_INSTALL_INFO = "package_name=Ascend-cann-toolkit\nversion={version}\narch={machine}\nos=linux\n"


@dataclass(frozen=True)
class Layout:
    """How a version of CANN lies below its prefix, and what its packages are called.

    Attributes:
        tree: the folder of the version.
        home: the folder that its environment script names.
        script: the folder of the environment script.
        links: made by the installer, target by name.
        kernels: file name of the kernels' package.
        wheel: the tag of aclruntime's wheel for the Python that it takes.
    """

    version: str
    tree: str
    home: str
    script: str
    links: Mapping[str, str]
    kernels: str
    wheel: str


_PARTS = ("bin", "opp", "simulated", "{machine}-linux")
LAYOUTS = {
    layout.version: layout
    for layout in (
        Layout(
            "6.3.RC1",
            "ascend-toolkit/6.3.RC1",
            "ascend-toolkit/latest",
            "ascend-toolkit",
            {"ascend-toolkit/latest": "6.3.RC1"},
            "Ascend-cann-kernels-310p_6.3.RC1_linux.run",
            "cp37-cp37m",
        ),
        # latest is a folder of links, one for each part.
        Layout(
            "8.1.RC1",
            "ascend-toolkit/8.1.RC1",
            "ascend-toolkit/latest",
            "ascend-toolkit",
            {f"ascend-toolkit/latest/{part}": f"../8.1.RC1/{part}" for part in _PARTS},
            "Ascend-cann-kernels-310p_8.1.RC1_linux-{machine}.run",
            "cp311-cp311",
        ),
        Layout(
            "8.5.0",
            "cann-8.5.0",
            "cann-8.5.0",
            "cann-8.5.0",
            {"cann": "cann-8.5.0"},
            "Ascend-cann-310p-ops_8.5.0_linux-{machine}.run",
            "cp311-cp311",
        ),
    )
}


def toolkit_files(layout: Layout, machine: str) -> dict[str, bytes]:
    """What the toolkit's package of a version installs below its prefix; links aside."""
    recorded = CORPUS / "cann" / f"{layout.version.lower()}.txt"
    info = recorded.read_text() if recorded.is_file() else _INSTALL_INFO.format(version=layout.version, machine=machine)
    return {
        "SIMULATOR": b"This is no CANN: it stands in for it in tests, and computes on a CPU.\n",
        f"{layout.script}/set_env.sh": _SET_ENV.format(home=layout.home).encode(),
        f"{layout.tree}/bin/atc": (PAYLOAD / "atc").read_bytes(),
        f"{layout.tree}/{machine}-linux/devlib/libascend_hal.so": b"a stub\n",
        f"{layout.tree}/{machine}-linux/ascend_toolkit_install.info": info.encode(),
        **{f"{layout.tree}/simulated/{path.name}": path.read_bytes() for path in (CORPUS / "errors").glob("*.txt")},
    }


def kernel_files(layout: Layout) -> dict[str, bytes]:
    """What the kernels' package installs."""
    return {f"{layout.tree}/opp/built-in/op_impl/ai_core/tbe/kernel/ascend310p/README": b"operators\n"}


def write_packages(folder: Path, machine: str = "", ais_bench: Path | None = None, version: str = VERSION) -> None:
    """Write all of them into `folder`, a checkout's data/sources.

    Args:
        folder: made where it is not there.
        machine: as `uname -m` says it; '' for this one's.
        ais_bench: the vendor's wheel, to be used in place of the stand-in.
        version: of CANN, one of LAYOUTS.
    """
    machine, layout = machine or platform.machine(), LAYOUTS[version]
    folder.mkdir(parents=True, exist_ok=True)
    links = [f'ln -sfn {target} "$prefix/{name}"' for name, target in _links(layout, machine).items()]
    folders = sorted({f'"$prefix/{Path(name).parent}"' for name in layout.links})
    after = [
        f'sed -i "s:@PREFIX@:$(readlink -f "$prefix"):g" "$prefix/{layout.script}/set_env.sh"',
        f"mkdir -p {' '.join(folders)}",
        *links,
        'mkdir -p /etc/Ascend && echo "Toolkit_Install_Path=$prefix" > /etc/Ascend/ascend_cann_install.info',
    ]
    toolkit = folder / f"Ascend-cann-toolkit_{version}_linux-{machine}.run"
    _installer(toolkit, toolkit_files(layout, machine), "\n".join(after))
    _installer(folder / layout.kernels.format(machine=machine), kernel_files(layout), "true")
    wheel = folder / f"aclruntime-0.0.2-{layout.wheel}-linux_{machine}.whl"
    write_wheel(wheel, "aclruntime")
    target = folder / "ais_bench-0.0.2-py3-none-any.whl"
    if ais_bench is None:
        write_wheel(target, "ais_bench")
        return
    shutil.copyfile(ais_bench, target)
    with zipfile.ZipFile(wheel, "a") as archive:
        for source in sorted((PAYLOAD / "real_front_end").glob("*.py")):
            _add(archive, source.name, source.read_bytes())


def _links(layout: Layout, machine: str) -> dict[str, str]:
    return {name.format(machine=machine): target.format(machine=machine) for name, target in layout.links.items()}


def install_on(ascend: Path, version: str) -> None:
    """Install a simulated CANN on a simulated host, as root would.

    Args:
        ascend: the host's /usr/local/Ascend.
        version: one of LAYOUTS.
    """
    layout, machine = LAYOUTS[version], platform.machine()
    for name, content in {**toolkit_files(layout, machine), **kernel_files(layout)}.items():
        path = ascend / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(b"@PREFIX@", b"/usr/local/Ascend"))
        path.chmod(0o755 if path.name == "atc" else 0o644)
    for name, target in _links(layout, machine).items():
        (ascend / name).parent.mkdir(parents=True, exist_ok=True)
        (ascend / name).symlink_to(target)


def zipped(package: Path) -> Path:
    """The package as the vendor's site gives it: the .run with signatures beside it, in a .zip."""
    target = package.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        archive.write(package, package.name)
        archive.writestr(package.name + ".asc", b"a signature")
    return target


def _installer(path: Path, files: dict[str, bytes], after: str) -> None:
    archive = io.BytesIO()
    with gzip.GzipFile(fileobj=archive, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if name.endswith("/atc") else 0o644
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(_INSTALLER.format(after=after, name=path.stem).encode() + archive.getvalue())
    path.chmod(0o755)


def write_wheel(path: Path, package: str, *, metadata: bool = True) -> None:
    """A wheel of one of the payload's packages; without metadata it is one that ais_bench mistrusts."""
    with zipfile.ZipFile(path, "w") as archive:
        for source in sorted((PAYLOAD / package).glob("*.py")):
            _add(archive, f"{package}/{source.name}", source.read_bytes())
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.2\n"
            _add(archive, f"{package}-0.0.2.dist-info/METADATA", text.encode())
            _add(archive, f"{package}-0.0.2.dist-info/RECORD", b"")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """The same bytes whenever it is made: the packages' digests are part of an image's identity."""
    archive.writestr(zipfile.ZipInfo(name), content)
