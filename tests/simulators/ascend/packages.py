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
from pathlib import Path

PAYLOAD = Path(__file__).parent / "payload"
VERSION = "6.3.RC1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

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
_TOOLKIT_AFTER = """sed -i "s:@PREFIX@:$(readlink -f "$prefix"):g" "$prefix/ascend-toolkit/set_env.sh"
ln -sfn 6.3.RC1 "$prefix/ascend-toolkit/latest"
mkdir -p /etc/Ascend && echo "Toolkit_Install_Path=$prefix" > /etc/Ascend/ascend_cann_install.info"""
_SET_ENV = """export ASCEND_TOOLKIT_HOME=@PREFIX@/ascend-toolkit/latest
export LD_LIBRARY_PATH=$ASCEND_TOOLKIT_HOME/lib64:$LD_LIBRARY_PATH
export PATH=$ASCEND_TOOLKIT_HOME/bin:$PATH
export ASCEND_OPP_PATH=$ASCEND_TOOLKIT_HOME/opp
"""


def write_packages(folder: Path, machine: str = "", ais_bench: Path | None = None) -> None:
    """Write all of them into `folder`, a checkout's data/sources.

    Args:
        folder: made where it is not there.
        machine: as `uname -m` says it; '' for this one's.
        ais_bench: the vendor's wheel, to be used in place of the stand-in.
    """
    machine = machine or platform.machine()
    folder.mkdir(parents=True, exist_ok=True)
    toolkit = {
        "SIMULATOR": b"This is no CANN: it stands in for it in tests, and computes on a CPU.\n",
        "ascend-toolkit/set_env.sh": _SET_ENV.encode(),
        f"ascend-toolkit/{VERSION}/bin/atc": (PAYLOAD / "atc").read_bytes(),
        f"ascend-toolkit/{VERSION}/{machine}-linux/devlib/libascend_hal.so": b"a stub\n",
        f"ascend-toolkit/{VERSION}/{machine}-linux/ascend_toolkit_install.info": (
            f"package_name=Ascend-cann-toolkit\nversion={VERSION}\narch={machine}\nos=linux\n".encode()
        ),
    }
    kernels = {f"ascend-toolkit/{VERSION}/opp/op_impl/built-in/ai_core/tbe/kernel/ascend310p/README": b"operators\n"}
    _installer(folder / f"Ascend-cann-toolkit_{VERSION}_linux-{machine}.run", toolkit, _TOOLKIT_AFTER)
    _installer(folder / f"Ascend-cann-kernels-310p_{VERSION}_linux.run", kernels, "true")
    write_wheel(folder / f"aclruntime-0.0.2-cp37-cp37m-linux_{machine}.whl", "aclruntime")
    target = folder / "ais_bench-0.0.2-py3-none-any.whl"
    if ais_bench is None:
        write_wheel(target, "ais_bench")
        return
    shutil.copyfile(ais_bench, target)
    with zipfile.ZipFile(folder / f"aclruntime-0.0.2-cp37-cp37m-linux_{machine}.whl", "a") as archive:
        for source in sorted((PAYLOAD / "real_front_end").glob("*.py")):
            _add(archive, source.name, source.read_bytes())


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
