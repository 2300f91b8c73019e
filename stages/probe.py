"""What is really in an image: interpreter, C library, wheels and Debian packages with their versions.

Writes `probe.json`: {"python", "implementation", "glibc", "wheels": {name: version}, "debs": {name: version},
"found": {"kaldi", "cann": what of them is installed, "cann innerversion", "cann drivers": CANN's own release line and
list of drivers}, "simulator": whether CANN is one that tests put in its place}.
The report's toolchain table is filled from it, so that a version shown is one found and not one intended.
"""

from __future__ import annotations

import glob
import os
import platform
import sys
from typing import Sequence

from stages.npu import ascend
from stages.shared import runtime_arguments, stage

_KALDI = "/usr/local/bin/compute-fbank-feats"


def _glibc() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
    except (IndexError, OSError, ValueError):
        return "unknown"


def _wheels() -> dict[str, str]:
    found = {}
    for folder in sys.path:
        for path in glob.glob(os.path.join(folder, "*.dist-info")):
            name, _, version = os.path.basename(path)[: -len(".dist-info")].partition("-")
            found[name.lower().replace("_", "-")] = version
    return found


def _debs() -> dict[str, str]:
    found = {}
    for path in ["/var/lib/dpkg/status"] + sorted(glob.glob("/var/lib/dpkg/status.d/*")):
        if not os.path.isfile(path):
            continue
        name = ""
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("Package: "):
                    name = line[len("Package: ") :].strip()
                elif line.startswith("Version: "):
                    found[name] = line[len("Version: ") :].strip()
    return found


def _found() -> dict[str, str]:
    """What no package manager knows of: Kaldi, told by its program and the BLAS it links to, and CANN by its record."""
    found = {}
    if os.path.isfile(_KALDI):
        with open(_KALDI, "rb") as stream:
            found["kaldi"] = "Kaldi with OpenBLAS" if b"libopenblas.so" in stream.read() else "Kaldi without OpenBLAS"
    toolkit = ascend.toolkit_info()
    names = {"version": "cann", "innerversion": "cann innerversion", "compatible_version": "cann drivers"}
    for key, name in names.items():
        if key in toolkit:
            found[name] = toolkit[key]
    return found


def main(arguments: Sequence[str]) -> None:
    """Command line: --out DIR --obs DIR, and --cann where the host lends its CANN."""
    parser = stage.parser(__doc__)
    runtime_arguments.cann(parser)
    options = parser.parse_args(arguments)
    if options.cann and ascend.identity() != options.cann:
        raise stage.StageError("the host's CANN is {}, not {}".format(ascend.identity() or "absent", options.cann))
    result = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "glibc": _glibc(),
        "wheels": _wheels(),
        "debs": _debs(),
        "found": _found(),
        "simulator": ascend.is_simulator(),
    }
    stage.write_json(os.path.join(options.out, "probe.json"), result)


if __name__ == "__main__":
    stage.run(main)
