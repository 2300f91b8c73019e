"""CANN's tools, run as the guide runs them: environment script sourced, arguments to the letter, messages explained.

The guide's relative names (lstm_ctc.onnx, lstm_bin_bs8, result/bs8) are links in a new, empty working folder, so that
its commands run unchanged and nothing of an earlier run can lie there. Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple, Sequence

from stages.npu.catalogue import explain
from stages.shared.stage import StageError, write_json

ROOT = "/usr/local/Ascend"
PYTHON = "python3"
_VENDORS_LINES = 5
_DRIVER = tuple(ROOT + "/driver/lib64" + below for below in ("", "/common", "/driver"))


# The vendor's tools print an error's code and cause first, then possible causes, a solution, and a trace-back last.
_CODED = re.compile(r"(?:^|[^0-9A-Za-z])E[0-9A-Z]\d{4}(?:[^0-9A-Za-z]|$)")
_SOLUTION = re.compile(r"\s*Solution: *(?!N/A)(\S.*)")
_REFUSED_WARNINGS = (r"aclruntime version:\S+ is lower",)


class Installation(NamedTuple):
    """Where a CANN lies: its environment script, and the folder of its toolkit."""

    set_env: str
    toolkit: str


def installation() -> Installation | None:
    """The CANN below ROOT, told by its files; None where there is none.

    Up to 8.4 the toolkit is ascend-toolkit/latest, as in the guide. From 8.5 on it is cann-VERSION, to which cann
    leads; where the vendor's images have the old names as well, they are taken.
    """
    names = sorted((name for name in _listed(ROOT) if name.startswith("cann-")), reverse=True)
    for folder, toolkit in [("ascend-toolkit", "ascend-toolkit/latest"), ("cann", "cann"), *zip(names, names)]:
        found = Installation(os.path.join(ROOT, folder, "set_env.sh"), os.path.join(ROOT, toolkit))
        if os.path.isfile(found.set_env) and os.path.isdir(found.toolkit):
            return found
    return None


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


class Commands:
    """Runs commands in one new working folder, and writes down each in `obs`/commands.json.

    Args:
        obs: the stage's folder for observations; each command's output is kept there.
        cann: what the host's own CANN must say of itself, as `identity` has it; '' where CANN is the image's.
    """

    def __init__(self, obs: str, cann: str = "") -> None:
        self._obs = obs
        self._done: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        found = installation()
        if found is None:
            raise StageError("there is no CANN in {}: no set_env.sh".format(ROOT), "use the cann image")
        if cann and identity() != cann:
            raise StageError(
                "the host's CANN is {}, and was {} when the run began".format(identity(), cann), "start the run again"
            )
        self._installed = found
        self.folder = tempfile.mkdtemp(prefix="cann.")

    def link(self, name: str, target: str) -> None:
        """Make the guide's relative `name` lead to `target`."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.path.abspath(target), path)

    def path(self, name: str) -> str:
        """Where a relative name of the guide is."""
        return os.path.join(self.folder, name)

    def atc(self, words: Sequence[str]) -> list[str]:
        """Run atc; the stub libraries that it needs on a machine without a driver are seen by it alone."""
        devlib = "{}/{}-linux/devlib".format(self._installed.toolkit, platform.machine())
        return self._run("atc", ["atc", *words], (devlib,))

    def ais_bench(self, log_name: str, words: Sequence[str]) -> list[str]:
        """Run `python3 -m ais_bench`; its output's lines."""
        return self._run(log_name, [PYTHON, "-m", "ais_bench", *words], _DRIVER)

    def model_batch_size(self, model: str) -> int:
        """The first dimension of a converted model's input, as the runtime sees it."""
        program = (
            "import aclruntime, json, sys\n"
            "session = aclruntime.InferenceSession(sys.argv[1], 0, aclruntime.session_options())\n"
            "print('input shape', json.dumps([int(size) for size in session.get_inputs()[0].shape]))\n"
            "session.finalize()\n"
        )
        lines = self._run("model", [PYTHON, "-c", program, model], _DRIVER, recorded=False)
        for line in lines:
            found = re.search(r"input shape (\[.*\])", line)
            if found:
                return json.loads(found.group(1))[0]
        raise StageError("aclruntime does not tell the shape of {}".format(model), "see the log")

    def _run(self, name: str, words: Sequence[str], libraries: Sequence[str], *, recorded: bool = True) -> list[str]:
        script = 'source "{}" && export LD_LIBRARY_PATH="{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" && exec "$@"'
        argv = ["/bin/bash", "-c", script.format(self._installed.set_env, ":".join(libraries)), "guide", *words]
        began_s = time.monotonic()
        lines = []
        process = subprocess.Popen(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with open(os.path.join(self._obs, name + ".log"), "wb") as log:
            for raw in process.stdout or ():
                log.write(raw)
                # ais_bench draws its loop's progress over itself with carriage returns.
                for line in raw.decode("utf-8", "replace").rstrip().split("\r"):
                    lines.append(line)
                    if not line.startswith("loop inference exec"):
                        print(line, file=sys.stderr)
        code = process.wait()
        if recorded:
            self._record(words, code, time.monotonic() - began_s)
        if code != 0 or any(re.search(pattern, "\n".join(lines)) for pattern in _REFUSED_WARNINGS):
            raise _failure(words, code, lines)
        return lines

    def _record(self, words: Sequence[str], code: int, wall_s: float) -> None:
        with self._lock:
            self._done.append({"argv": words, "exit_code": code, "wall_s": round(wall_s, 3)})
            document = {
                "sourced": self._installed.set_env,
                "commands": sorted(self._done, key=lambda item: item["argv"]),
            }
            write_json(os.path.join(self._obs, "commands.json"), document)


def _failure(words: Sequence[str], code: int, lines: Sequence[str]) -> StageError:
    tool = "atc" if words[0] == "atc" else "ais_bench" if "ais_bench" in words else words[0]
    coded = next((number for number, line in enumerate(lines) if _CODED.search(line)), None)
    known = explain(lines)
    hints = [known.entry.hint] if known else []
    if known is None or known.entry.family:
        hints += _vendors_lines(tool, lines, coded)
    if known is None:
        told = [line.strip() for line in lines if line.strip()][-1:] or ["it printed nothing"]
        said = lines[coded].strip() if coded is not None else told[0]
        return StageError("{} ended with exit code {}: {}".format(tool, code, said), "\n".join(hints))
    evidence = known.line
    if coded is not None and lines[coded].strip() != evidence:
        evidence = "{}; first error: {}".format(evidence, lines[coded].strip())
    return StageError("{}: {} ({})".format(tool, known.message, evidence), "\n".join(hints))


def _vendors_lines(tool: str, lines: Sequence[str], coded: int | None) -> list[str]:
    """What the tool itself printed: from its first coded line on, or its last lines; and its advice by itself."""
    kept = [line.strip() for line in lines[coded or 0 :] if line.strip()]
    kept = kept[:_VENDORS_LINES] if coded is not None else kept[-_VENDORS_LINES:]
    advice = next((found.group(1).strip() for found in map(_SOLUTION.match, lines[coded or 0 :]) if found), "")
    told = ["the vendor's advice: " + advice] if advice else []
    return told + ["{} printed: {}".format(tool, line) for line in kept]


def toolkit_info() -> dict[str, str]:
    """CANN's own record of its installation: version, innerversion, compatible_version …; empty where there is none."""
    found = installation()
    if found is None:
        return {}
    path = "{}/{}-linux/ascend_toolkit_install.info".format(found.toolkit, platform.machine())
    try:
        with open(path, encoding="utf-8") as stream:
            pairs = [line.strip().partition("=") for line in stream]
    except OSError:
        return {}
    return {name: value for name, _, value in pairs if value}


def toolkit_version() -> str:
    """CANN's version as its own record tells it; '' where there is none."""
    return toolkit_info().get("version", "")


def identity() -> str:
    """What tells a CANN from another: its version and the vendor's own number of the build."""
    told = toolkit_info()
    return " ".join(told[name] for name in ("version", "innerversion") if name in told)


def is_simulator() -> bool:
    """Whether what is installed here stands in for CANN, and computes on a CPU."""
    return os.path.exists(ROOT + "/SIMULATOR")
