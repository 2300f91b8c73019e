"""What the vendor's tools print when something goes wrong on the way of this pipeline, and what to do about each.

Codes and texts are those of the vendor's public sources and of public reports: atc's (E1, E2, E4, E9, EC, EZ …), the
runtime's (1070xx, 2070xx, 5070xx, EL, EE), dcmi's and ais_bench's. tests/data/ascend/errors holds an output of each
entry, named as the entry. Standard library only.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence


class Entry(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        name: of its recorded output.
        pattern: found in one line of a tool's output.
        message: what it is, with the pattern's groups.
        hint: what to do.
        family: many causes share the pattern, so that the vendor's own lines are shown as well.
    """

    name: str
    pattern: str
    message: str
    hint: str
    family: bool = False


def _code(*codes: str) -> str:
    """One of these codes, as a word of its own."""
    return r"(?<![0-9A-Za-z])(?:{})(?![0-9A-Za-z])".format("|".join(codes))


def _number(*codes: str) -> str:
    """A number of the runtime's where one of its tools prints it as a result."""
    return r"(?i:errcode ?[=:] ?|result ?= ?|ret ?[=:] ?|error ?code(?: is)? )(?:{})(?!\d)".format("|".join(codes))


_DOCTOR = "`invoke doctor` says whether driver, firmware and CANN fit each other"
_HEALTH = "look at `npu-smi info -t health` and the kernel's log on the host, restart the host, or take another chip"

# The specific ones first: the first entry that a line matches is the one that is told.
CATALOGUE = (
    Entry(
        "dcmi-8020",
        r"dcmi.*-8020",
        "dcmi says -8020: another container or virtual machine holds the device",
        "stop the container that holds it: `docker ps` and `npu-smi info` on the host show it",
    ),
    Entry(
        "dcmi-8005",
        r"dcmi.*-8005",
        "dcmi cannot be initialised (-8005): the driver does not answer, or another container holds the device",
        "stop what else uses the NPU (`npu-smi info` on the host shows it); restart the host if driver or firmware "
        "were just installed",
    ),
    Entry(
        "driver-library",
        r"lib(?:ascend_hal|drvdsmi_host|drvdsmi|dcmi|mmpa|c_sec)\S*: cannot open shared object",
        "the driver's libraries are not in the container",
        "is the driver installed in /usr/local/Ascend/driver on the host, with all of lib64? `invoke doctor` says",
    ),
    Entry(
        "cann-library",
        r"(?P<library>lib\w+\.so\S*): cannot open shared object",
        "a library of CANN is not in the image: {library}",
        "the toolkit's installation is not complete, or another CANN is meant: remove the image's layer "
        "(`invoke store.gc`), and build it again from packages of one version",
    ),
    Entry(
        "device-memory",
        _code("EL0004") + "|" + _number("207001", "207018"),
        "the NPU has no memory left for this model",
        "stop what else runs on it, or use a smaller --bs",
    ),
    Entry(
        "other-chip",
        r"(?i:soc_?ver(?:sion|ison)).*(?i:mismatch|not match)|om arch type.*not match|stream_list\.size\(\): ?[0O]\b|"
        + _number("507008"),
        "the model was converted for another chip than this NPU",
        "run again without stored results of the other host: the chip's name is part of the conversion",
    ),
    Entry(
        "other-cann",
        r"Invalid opp version",
        "the model was converted by another CANN than the one that runs it",
        "run the stage convert_npu again with the CANN of this run (--force)",
    ),
    Entry(
        "soc-version",
        r"E10(?:001|061).*soc_version|soc_version.*(?i:invalid|not support)",
        "atc does not know the chip that --soc_version names",
        "the name is Ascend and what `npu-smi info` shows, such as Ascend310P3; is the kernels package of that chip in "
        "data/sources, of the toolkit's own version?",
    ),
    Entry(
        "unknown-option",
        r"unknown command line flag '(?P<flag>\w+)'",
        "this CANN's atc does not know the option --{flag}",
        "options come and go between versions: leave --precision-mode out, or use the table's CANN",
    ),
    Entry(
        "precision-mode",
        r"E100\d\d.*precision_mode",
        "this CANN's atc does not know the --precision_mode asked for",
        "leave --precision-mode out: the vendor's default is what the published table was made with",
    ),
    Entry(
        "input-name",
        _code("E10016"),
        "the exported graph has no input of the name that the guide gives",
        "the export is this repository's own: run the stage export again; if it stays, please report it with the log",
    ),
    Entry(
        "input-shape",
        _code("E10002", "E10011", "E10049"),
        "atc refused the input's shape",
        "use a --bs from 1; if it stays, please report it with the log",
        family=True,
    ),
    Entry(
        "model-unreadable",
        _code("E10041", "E13005"),
        "atc cannot read the exported graph",
        "a full disk is the usual cause: run the stage export again; a protobuf of another version in the image is the "
        "other one: the image's own lock has 3.20",
        family=True,
    ),
    Entry(
        "kernels-absent",
        _code("E10501", "EZ3002", "EZ3003", "E13010", "E19010"),
        "this CANN has no operator of the kind that the graph needs for this chip",
        "are the kernels (8.5 and later: ops) of the 310P in data/sources, of the toolkit's own version? The graph is "
        "of ONNX opset 11",
        family=True,
    ),
    Entry(
        "file-not-usable",
        _code("E1300[0-4]", "E10410", "E13026", "E10021", "E10022") + "|" + _number("107009", "107010"),
        "the vendor's tool could not read or write a file",
        "free space on the disk of artifacts/ and in the container's /tmp (memory); then run the same command again",
        family=True,
    ),
    Entry(
        "atc-argument",
        _code(r"E10\d{3}"),
        "atc refused an argument or the model",
        "see its own lines below; the arguments are the guide's, so another CANN than the table's is the usual cause",
        family=True,
    ),
    Entry(
        "python-module",
        _code("EC0010", "E40000", "E40020", "E40024") + r"|Failed to import (?:Python module|te\.)",
        "CANN's compiler could not import a Python module",
        "the image's Python is not one that this CANN was made for, or a package that it asks for is absent: use the "
        "CANN and the image that belong together, and report the module that its lines name",
        family=True,
    ),
    Entry(
        "compile-failed",
        _code(r"E40\d{3}", r"EB\d{4}", r"E9\d{4}"),
        "CANN's compiler could not compile an operator of the graph",
        "memory or pids that ran out are the usual cause: use a smaller --bs, or free memory on this machine",
        family=True,
    ),
    Entry(
        "graph-refused",
        _code(r"E2\d{4}"),
        "a step of atc before the compiler refused the graph",
        "this CANN is not the one that the guide was written for: use the table's, or report it with the log",
        family=True,
    ),
    Entry(
        "no-permission",
        _number("207006"),
        "this user may not open the NPU",
        "join the group that owns /dev/davinci* (usually HwHiAiUser), or use `--engine docker`",
    ),
    Entry(
        "no-device",
        _number("207004", "107001"),
        "the runtime sees no such NPU in the container",
        "are /dev/davinci* of the chips chosen there? `npu-smi info` on the host shows them; leave out --devices",
    ),
    Entry(
        "open-device",
        r"acl open device (?P<device>\d+) failed|(?i:aclInit.*fail)|" + _number("507033"),
        "the NPU could not be opened",
        "are /dev/davinci*, /dev/davinci_manager, /dev/devmm_svm and /dev/hisi_hdc there, may this user open them (the "
        "group HwHiAiUser), does no other container hold them, and does the driver fit CANN? `invoke doctor` says",
    ),
    Entry(
        "busy",
        r"(?i:resources? (?:is|are) busy|resource busy|device is busy)",
        "the NPU is busy: another process holds it",
        "wait until `npu-smi info` shows the chip idle, or take another with --devices",
    ),
    Entry(
        "driver-failed",
        _number("507899", "507000", "507051", "507052"),
        "the driver failed inside a call of CANN's runtime",
        _DOCTOR + "; stop other containers that hold the device; restart the host",
        family=True,
    ),
    Entry(
        "not-supported",
        _number("207000", "507009"),
        "the driver or the chip lacks what this CANN asks for",
        _DOCTOR + ": an older driver under a newer CANN is the usual cause",
        family=True,
    ),
    Entry(
        "device-lost",
        _number("507010", "507901"),
        "the NPU does not answer any more",
        _HEALTH,
    ),
    Entry(
        "device-timeout",
        _number("507012", "507014", "507017", "507034", "507046", "507047", "107019", "107020"),
        "the NPU did not finish its work in time",
        _HEALTH + "; a chip that is too hot is slowed down: `npu-smi info -t temp`",
    ),
    Entry(
        "device-faulty-memory",
        _number("507053", "507054", "507055"),
        "the NPU's memory has an error that it cannot correct",
        _HEALTH + ": `npu-smi info -t ecc` counts such errors",
    ),
    Entry(
        "device-exception",
        r"EZ9999.*(?i:aicore|aicpu)|" + _number("507011", "507013", "507015", "507016", "507018", "507035", "507036"),
        "the NPU stopped while it computed",
        _HEALTH + "; if it stays on another chip, report it with the log",
        family=True,
    ),
    Entry(
        "sizes-differ",
        r"arg0 tensorsize: ?(?P<tensor>\d+) filesize: ?(?P<file>\d+) not match",
        "the batch size of model and inputs differ: the model takes {tensor} bytes, a file has {file}",
        "convert the model and make the batches with the same --bs",
    ),
    Entry(
        "no-input",
        r"not find valid file|of --input is invalid",
        "ais_bench found no input file",
        "run the stage batches again",
    ),
    Entry(
        "outputs-not-split",
        r"save out files error",
        "ais_bench could not split the outputs into files",
        "model and batches are not of one --bs: convert the model and make the batches again",
    ),
    Entry(
        "aclruntime-unseen",
        r"aclruntime version:\S+ is lower",
        "ais_bench does not see aclruntime's version, and would silently run another way",
        "the image must hold aclruntime's .dist-info and a setuptools before 82 (pkg_resources)",
    ),
    Entry(
        "other-ais-bench",
        r"(?i:unrecognized arguments:.*--(?:model|outfmt|output_dirname|batchsize)|arguments are required: models)|"
        r"No module named '?ais_bench(?:\.__main__)?'?",
        "what is installed as ais_bench is not the inference tool of that name",
        "the name now also belongs to a tool for language models: put ais_bench-0.0.2-py3-none-any.whl of the "
        "inference tool into data/sources (docs/guide-lab.md says where it is)",
    ),
    Entry(
        "wheel-of-other-python",
        r"No module named '?aclruntime'?|undefined symbol: _?Py|Python version mismatch: module was compiled",
        "aclruntime is not a wheel for this image's Python",
        "put the wheel for this Python into data/sources: cp37 for the table's CANN, cp311 for CANN 8 and later",
    ),
    Entry(
        "model-not-loaded",
        r"load model from file failed|\[ACL: ?invalid (?:parameter|om model)\]",
        "the runtime could not load the converted model",
        "run the stage convert_npu again with the CANN and for the chip of this run (--force); " + _DOCTOR,
        family=True,
    ),
    Entry(
        "out-of-memory",
        r"(?:^|\W)Killed(?:$|\W)|(?i:cannot allocate memory)|MemoryError|std::bad_alloc",
        "memory ran out on the host",
        "free memory, or use a smaller --bs: atc compiles in several processes of up to some gigabytes each",
    ),
    Entry(
        "inner-error",
        _code("E[1EHIKLRZ]9999", "EE8888"),
        "an inner error of CANN, of which the vendor names no cause",
        "see its own lines below; memory that ran out, a driver that does not fit CANN and a model of another chip are "
        "the usual causes: " + _DOCTOR,
        family=True,
    ),
)


class Explained(NamedTuple):
    """An entry that fits an output: its message filled in, and the line that it was found in."""

    entry: Entry
    message: str
    line: str


def explain(lines: Sequence[str]) -> Explained | None:
    """The first entry of the catalogue that some line of a tool's output matches; None where none does."""
    for entry in CATALOGUE:
        for line in lines:
            found = re.search(entry.pattern, line)
            if found:
                return Explained(entry, entry.message.format(**found.groupdict()), line.strip())
    return None
