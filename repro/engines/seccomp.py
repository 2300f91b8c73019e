"""The sandbox's system call filter: a program for the kernel, made here from a table, the same bytes everywhere.

It denies what Docker's default profile denies to a container without capabilities, and a little more. The job gets an
error in place of the call's effect, as in Docker. A call that this table does not know yet (a newer kernel's) and
`clone3`, whose flags a filter cannot read, are answered with ENOSYS, so that libraries fall back to older calls.
docs/decisions/engines.md has the list and its reasons.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.architecture import AMD64, Architecture
from repro.base.files import canonical_json

# Name: (number on x86_64, number on aarch64); None where the architecture has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # Kernel keys: a caller's keyring is no part of a job.
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # Large interfaces of the kernel in which most of its faults are found, and which no stage needs.
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    # Mounts, roots and namespaces.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "open_tree_attr": (467, 467), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # The machine itself.
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "create_module": (174, None), "query_module": (178, None),
    "get_kernel_syms": (177, None), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "nfsservctl": (180, 42), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58), "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262), "open_by_handle_at": (304, 265), "lsm_get_self_attr": (459, 459),
    "lsm_set_self_attr": (460, 460), "lsm_list_modules": (461, 461), "file_getattr": (468, 468),
    "file_setattr": (469, 469),
    # Other processes, and where memory lies. Like Docker, ptrace stays: it reaches the job's own processes alone.
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "mbind": (237, 235), "get_mempolicy": (239, 236), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    # Left over from old kernels.
    "_sysctl": (156, None), "sysfs": (139, None), "uselib": (134, None), "ustat": (136, None),
    "afs_syscall": (183, None), "getpmsg": (181, None), "putpmsg": (182, None), "security": (185, None),
    "tuxcall": (184, None), "vserver": (236, None),
}  # fmt: skip
NOT_THERE = {"clone3": (435, 435)}
LAST_KNOWN = 469
"""The highest call that this table was made with (Linux 6.17); both architectures number new calls alike."""

_LOOKED_INTO = {
    "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "personality": (135, 92), "ioctl": (16, 29),
}  # fmt: skip
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
AF_NETLINK, NETLINK_ROUTE = 16, 0  # how libraries ask for the interfaces
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
IOCTLS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C}  # typing into a terminal on its reader's behalf
_X32 = 0x40000000

_LOAD = 0x20
_EQUAL, _GREATER, _ANY_BIT = 0x15, 0x25, 0x45
_RETURN = 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LAST_FAMILY = 45


def number(name: str, architecture: Architecture) -> int | None:
    """A call's number; None where the architecture has none of that name."""
    on_amd64, on_arm64 = {**DENIED, **NOT_THERE, **_LOOKED_INTO}[name]
    return on_amd64 if architecture is AMD64 else on_arm64


@dataclass(frozen=True)
class _Step:
    """One instruction; a jump names the labels to go to, '' for the next instruction."""

    code: int
    value: int
    if_true: str = ""
    if_false: str = ""


class _Program:
    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, value: int, if_true: str = "", if_false: str = "") -> None:
        self._steps.append(_Step(code, value, if_true, if_false))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._steps)

    def assembled(self) -> bytes:
        """The instructions as struct sock_filter: jumps go forward, 255 instructions at most."""
        return b"".join(
            struct.pack("<HBBI", step.code, self._to(at, step.if_true), self._to(at, step.if_false), step.value)
            for at, step in enumerate(self._steps)
        )

    def _to(self, at: int, label: str) -> int:
        return self._labels[label] - at - 1 if label else 0


def program(architecture: Architecture) -> bytes:
    """The filter for this architecture's processes, as bubblewrap's `--seccomp` reads it."""
    made = _Program()
    made.add(_LOAD, _ARCHITECTURE_AT)
    made.add(_EQUAL, architecture.audit, if_false="denied")  # another ABI of the same processor: other numbers
    made.add(_LOAD, _NUMBER_AT)
    if architecture is AMD64:
        made.add(_ANY_BIT, _X32, if_true="denied")
    made.add(_GREATER, LAST_KNOWN, if_true="not there")
    for name in NOT_THERE:
        _jump_from(made, name, architecture, "not there")
    for name in _LOOKED_INTO:
        _jump_from(made, name, architecture, name)
    for name in sorted(DENIED, key=lambda each: number(each, architecture) or 0):
        _jump_from(made, name, architecture, "denied")
    made.add(_RETURN, _ALLOW)
    _look_into_arguments(made)
    made.label("denied")
    made.add(_RETURN, _ERRNO | errno.EPERM)
    made.label("not there")
    made.add(_RETURN, _ERRNO | errno.ENOSYS)
    made.label("allowed")
    made.add(_RETURN, _ALLOW)
    return made.assembled()


def _jump_from(made: _Program, name: str, architecture: Architecture, label: str) -> None:
    call = number(name, architecture)
    if call is not None:
        made.add(_EQUAL, call, if_true=label)


def _argument(made: _Program, index: int) -> None:
    """Load the lower half of an argument: the kernel ignores the upper one of those that are looked into here."""
    made.add(_LOAD, _ARGUMENTS_AT + 8 * index)


def _look_into_arguments(made: _Program) -> None:
    made.label("clone")
    _argument(made, 0)
    made.add(_ANY_BIT, NEW_NAMESPACES, "denied", "allowed")
    made.label("socket")
    made.label("socketpair")
    _argument(made, 0)
    for family in FAMILIES.values():
        made.add(_EQUAL, family, "allowed")
    made.add(_EQUAL, AF_NETLINK, if_false="denied")
    _argument(made, 2)
    made.add(_EQUAL, NETLINK_ROUTE, "allowed", "denied")
    made.label("personality")
    _argument(made, 0)
    for value in PERSONALITIES:
        made.add(_EQUAL, value, "allowed")
    made.add(_RETURN, _ERRNO | errno.EPERM)
    made.label("ioctl")
    _argument(made, 1)
    for command in IOCTLS.values():
        made.add(_EQUAL, command, "denied")
    made.add(_RETURN, _ALLOW)


def oci_profile(architecture: Architecture) -> bytes:
    """The same list as a profile for an OCI engine, without the values of `personality`, which it cannot say."""

    def denied(names: list[str], *conditions: tuple[int, int, str, int]) -> dict[str, Any]:
        arguments = [
            {"index": index, "value": value, "op": f"SCMP_CMP_{op}", "valueTwo": second}
            for index, value, op, second in conditions
        ]
        return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM, "args": arguments}

    rules = [denied(sorted(name for name in DENIED if number(name, architecture) is not None))]
    rules.append({"names": sorted(NOT_THERE), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS, "args": []})
    flags = [1 << bit for bit in range(32) if NEW_NAMESPACES >> bit & 1]
    rules += [denied(["clone"], (0, flag, "MASKED_EQ", flag)) for flag in flags]
    families = {family for family in range(_LAST_FAMILY + 1) if family not in (*FAMILIES.values(), AF_NETLINK)}
    for name in ("socket", "socketpair"):
        rules += [denied([name], (0, family, "EQ", 0)) for family in sorted(families)]
        rules.append(denied([name], (0, _LAST_FAMILY, "GT", 0)))
        rules.append(denied([name], (0, AF_NETLINK, "EQ", 0), (2, NETLINK_ROUTE, "NE", 0)))
    rules += [denied(["ioctl"], (1, 0xFFFFFFFF, "MASKED_EQ", command)) for command in IOCTLS.values()]
    abi = f"SCMP_ARCH_{architecture.machine.upper()}"
    return canonical_json({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [abi], "syscalls": rules})


def supported(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this kernel has system call filters."""
    try:
        return "\nSeccomp:" in status.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
