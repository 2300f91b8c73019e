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

from stages.shared.stage import StageError, write_json

ROOT = "/usr/local/Ascend"
SET_ENV = ROOT + "/ascend-toolkit/set_env.sh"
TOOLKIT = ROOT + "/ascend-toolkit/latest"
PYTHON = "python3"
_TAIL_LINES = 15
_DRIVER = (ROOT + "/driver/lib64/common", ROOT + "/driver/lib64/driver")


class Explanation(NamedTuple):
    """What a pattern in a tool's output means: a message with the pattern's groups, and what to do."""

    pattern: str
    message: str
    hint: str


# What the vendor's tools print, and what it means. Device logs go to the same stream: found by pattern, anywhere.
EXPLANATIONS = (
    Explanation(
        r"dcmi.*-80(?:05|20)",
        "dcmi cannot be initialised: the driver does not answer, or another container holds the device",
        "stop what else uses the NPU (`npu-smi info` on the host shows it); restart the host if driver or firmware "
        "were just installed",
    ),
    Explanation(
        r"(?:ErrCode=|result = |ret ?=|error code is )(?:107010|507018|207018)|(?i:resource busy|device is busy)",
        "the NPU is busy: another process holds it",
        "wait until `npu-smi info` shows the chip idle, or take another with --devices",
    ),
    Explanation(
        r"EL0004|(?:ret ?=|error code is )(?:207001|207002)",
        "the NPU has no memory left for this model",
        "stop what else runs on it, or use a smaller --bs",
    ),
    Explanation(
        r"(?:soc ?version|SocVersion|socVersion).*(?i:mismatch|not match)|om arch type.*not match",
        "the model was converted for another chip than this NPU",
        "run again without stored results of the other host: the chip's name is part of the conversion",
    ),
    Explanation(
        r"E10001.*soc_version|soc_version.*(?i:invalid|not support)",
        "atc does not know the chip that --soc_version names",
        "the name is Ascend and what `npu-smi info` shows, such as Ascend310P3; is the kernels package of that chip in "
        "data/sources?",
    ),
    Explanation(
        r"E10\d{3}", "atc refused an argument or the model", "see its message below; the whole log is kept with the run"
    ),
    Explanation(
        r"arg0 tensorsize: ?(?P<tensor>\d+) filesize: ?(?P<file>\d+) not match",
        "the batch size of model and inputs differ: the model takes {tensor} bytes, a file has {file}",
        "convert the model and make the batches with the same --bs",
    ),
    Explanation(r"not find valid file", "ais_bench found no input file", "run the stage batches again"),
    Explanation(
        r"aclruntime version:\S+ is lower",
        "ais_bench does not see aclruntime's version, and would silently run another way",
        "the image must hold aclruntime's .dist-info and a setuptools before 82 (pkg_resources)",
    ),
    Explanation(
        r"acl open device (?P<device>\d+) failed|(?i:aclInit.*fail)|50(?:7033|7899)",
        "the NPU could not be opened",
        "are /dev/davinci*, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc there, may this user open them (the "
        "group HwHiAiUser), and does the driver fit CANN? `invoke doctor` says",
    ),
    Explanation(
        r"lib(?:ascend_hal|drvdsmi_host|dcmi)\S*: cannot open shared object",
        "the driver's libraries are not in the container",
        "is the driver installed in /usr/local/Ascend/driver on the host? `invoke doctor` says",
    ),
)
# The vendor's tools print an error's code and cause first, then possible causes, a solution, and a trace-back last.
_CODED = re.compile(r"(?:^|[^0-9A-Za-z])E[0-9A-Z]\d{4}(?:[^0-9A-Za-z]|$)")
_SOLUTION = re.compile(r"\s*Solution: *(\S.*)")
_REFUSED_WARNINGS = (r"aclruntime version:\S+ is lower",)


def explain(lines: Sequence[str]) -> tuple[str, str, str] | None:
    """(message, hint, line) for the first known pattern that some line of a tool's output has, or None."""
    for known in EXPLANATIONS:
        for line in lines:
            found = re.search(known.pattern, line)
            if found:
                return known.message.format(**found.groupdict()), known.hint, line.strip()
    return None


class Commands:
    """Runs commands in one new working folder, and writes down each in `obs`/commands.json.

    Args:
        obs: the stage's folder for observations; each command's output is kept there.
    """

    def __init__(self, obs: str) -> None:
        self._obs = obs
        self._done: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        if not os.path.isfile(SET_ENV):
            raise StageError("this image holds no CANN: {} is not there".format(SET_ENV), "use the cann image")
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
        devlib = "{}/{}-linux/devlib".format(TOOLKIT, platform.machine())
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
        argv = ["/bin/bash", "-c", script.format(SET_ENV, ":".join(libraries)), "guide", *words]
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
                "sourced": SET_ENV,
                "commands": sorted(self._done, key=lambda item: item["argv"]),
            }
            write_json(os.path.join(self._obs, "commands.json"), document)


def _failure(words: Sequence[str], code: int, lines: Sequence[str]) -> StageError:
    tail = [line for line in lines if line.strip()][-_TAIL_LINES:]
    tool = "atc" if words[0] == "atc" else "ais_bench" if "ais_bench" in words else words[0]
    coded = next((number for number, line in enumerate(lines) if _CODED.search(line)), None)
    known = explain(lines)
    if known is None:
        said = tail[-1] if tail else "it printed nothing"
        solution = None
        if coded is not None:
            said = lines[coded]
            solution = next((found for found in map(_SOLUTION.match, lines[coded:]) if found), None)
        hint = "the vendor's advice: {}\n".format(solution.group(1).strip()) if solution else ""
        return StageError("{} ended with exit code {}: {}".format(tool, code, said.strip()), hint + "see its log")
    message, hint, evidence = known
    if coded is not None and lines[coded].strip() != evidence:
        evidence = "{}; first error: {}".format(evidence, lines[coded].strip())
    return StageError("{}: {} ({})".format(tool, message, evidence), hint)


def toolkit_info() -> dict[str, str]:
    """CANN's own record of its installation: version, innerversion, compatible_version …; empty where there is none."""
    path = "{}/{}-linux/ascend_toolkit_install.info".format(TOOLKIT, platform.machine())
    try:
        with open(path, encoding="utf-8") as stream:
            pairs = [line.strip().partition("=") for line in stream]
    except OSError:
        return {}
    return {name: value for name, _, value in pairs if value}


def toolkit_version() -> str:
    """CANN's version as its own record tells it; '' where there is none."""
    return toolkit_info().get("version", "")


def is_simulator() -> bool:
    """Whether what is installed here stands in for CANN, and computes on a CPU."""
    return os.path.exists(ROOT + "/SIMULATOR")
