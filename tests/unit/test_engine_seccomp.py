"""The sandbox's system call filter, run by an interpreter of ours for both architectures, call by call."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base.architecture import AMD64, ARM64, here
from repro.engines import seccomp
from repro.engines.spawner import spawn

ALLOW = 0x7FFF0000
BOTH = pytest.mark.parametrize("architecture", [AMD64, ARM64], ids=lambda each: each.name)
FOREIGN = {"i386": 0x40000003, "arm": 0x40000028, "s390x": 0x80000016}
# What libraries, Python and the emulator call on the way: by name, the numbers on x86_64 and aarch64.
NEEDED = {
    "read": (0, 63), "write": (1, 64), "openat": (257, 56), "mmap": (9, 222), "mprotect": (10, 226), "futex": (202, 98),
    "execve": (59, 221), "exit_group": (231, 94), "wait4": (61, 260), "kill": (62, 129), "getrandom": (318, 278),
    "rseq": (334, 293), "sched_getaffinity": (204, 123), "prctl": (157, 167), "memfd_create": (319, 279),
    "ptrace": (101, 117), "statx": (332, 291), "membarrier": (324, 283), "rt_sigreturn": (15, 139),
}  # fmt: skip


def decision(architecture, number, arguments=(), audit=None):
    """What the kernel would answer: 0 for the call itself, else the error number."""
    data = struct.pack("<IIQ6Q", number, audit or architecture.audit, 0, *(tuple(arguments) + (0,) * 6)[:6])
    steps = list(struct.iter_unpack("<HBBI", seccomp.program(architecture)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return 0 if value == ALLOW else value & 0xFFFF
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


def calls(architecture):
    return [name for name in seccomp.DENIED if seccomp.number(name, architecture) is not None]


@BOTH
def test_every_call_of_the_list_is_denied(architecture):
    names = calls(architecture)
    assert len(names) == {"amd64": 73, "arm64": 58}[architecture.name]
    assert {decision(architecture, seccomp.number(name, architecture)) for name in names} == {errno.EPERM}


@BOTH
def test_what_is_in_no_list_is_allowed_and_nothing_else_is(architecture):
    listed = {seccomp.number(name, architecture) for name in [*calls(architecture), "clone3"]}
    looked_into = {seccomp.number(name, architecture) for name in ("socket", "socketpair", "personality")}
    allowed = {number for number in range(2000) if decision(architecture, number, (1, 0, 0)) == 0}
    assert allowed == set(range(seccomp.LAST_KNOWN + 1)) - listed - (looked_into - socket_calls(architecture))
    assert {numbers[architecture is ARM64] for numbers in NEEDED.values()} <= allowed


def socket_calls(architecture):
    return {seccomp.number("socket", architecture), seccomp.number("socketpair", architecture)}


@BOTH
def test_calls_that_are_newer_than_the_list_and_clone3_are_not_there(architecture):
    for number in (seccomp.LAST_KNOWN + 1, 1000, 0x3FFFFFFF, seccomp.number("clone3", architecture)):
        assert decision(architecture, number) == errno.ENOSYS


@BOTH
@pytest.mark.parametrize("abi", FOREIGN)
def test_another_abi_of_the_processor_is_denied_whatever_it_calls(architecture, abi):
    assert {decision(architecture, number, audit=FOREIGN[abi]) for number in range(500)} == {errno.EPERM}
    other = architecture.other.audit
    assert {decision(architecture, number, audit=other) for number in range(500)} == {errno.EPERM}


def test_x32_is_denied():
    assert {decision(AMD64, 0x40000000 | number) for number in range(600)} == {errno.EPERM}


@BOTH
@pytest.mark.parametrize("flag", [1 << bit for bit in range(32)])
def test_clone_makes_processes_and_threads_but_no_namespace(architecture, flag):
    expected = errno.EPERM if flag & seccomp.NEW_NAMESPACES else 0
    assert decision(architecture, seccomp.number("clone", architecture), (flag | 17,)) == expected


@BOTH
def test_sockets_are_of_four_families_only(architecture):
    for name in ("socket", "socketpair"):
        call = seccomp.number(name, architecture)
        open_to = {family for family in range(64) if decision(architecture, call, (family, 1, 0)) == 0}
        assert open_to == {1, 2, 10, 16}
        assert decision(architecture, call, (16, 3, 9)) == errno.EPERM  # the audit protocol of netlink


@BOTH
def test_personality_and_terminals_are_bounded(architecture):
    personality, ioctl = (seccomp.number(name, architecture) for name in ("personality", "ioctl"))
    assert decision(architecture, personality, (0xFFFFFFFF,)) == 0
    assert decision(architecture, personality, (0x0040000,)) == errno.EPERM  # ADDR_NO_RANDOMIZE
    assert decision(architecture, ioctl, (0, 0x5401)) == 0
    assert decision(architecture, ioctl, (0, 0x5412)) == errno.EPERM
    assert decision(architecture, ioctl, (0, 0x1_0000_5412)) == errno.EPERM  # the kernel reads the lower half


@BOTH
def test_the_program_is_one_that_the_kernel_takes(architecture):
    program = seccomp.program(architecture)
    assert program == seccomp.program(architecture)
    assert 0 < len(program) // 8 <= 4096
    steps = list(struct.iter_unpack("<HBBI", program))
    for at, (code, if_true, if_false, _) in enumerate(steps):
        if code in (0x15, 0x25, 0x45):
            assert at + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1][0] == 0x06


def test_the_documentation_lists_each_call_that_is_denied():
    text = (Path(__file__).parents[2] / "docs" / "decisions" / "engines.md").read_text(encoding="utf-8")
    assert [name for name in seccomp.DENIED if f"`{name}`" not in text] == []


def test_a_child_has_another_session_keyring_than_its_caller():
    call = seccomp.number("keyctl", here())
    ask = f"import ctypes, json; c = ctypes.CDLL(None, use_errno=True); print(json.dumps(c.syscall({call}, 0, -3, 0)))"
    ours = ctypes.CDLL(None, use_errno=True).syscall(call, 0, -3, 0)
    if ours < 0:
        pytest.skip(f"no kernel keys here: {os.strerror(ctypes.get_errno())}")
    serials = []
    for _ in range(2):
        process = spawn([sys.executable, "-I", "-c", ask])
        serials.append(json.loads(process.communicate()[0]))
    assert ours not in serials
    assert serials[0] != serials[1]
    assert min(serials) > 0


def oci_decision(profile, name, arguments):
    """What an OCI engine's filter answers by this profile: the first rule that holds, else the call itself."""
    for rule in profile["syscalls"]:
        holds = {
            "SCMP_CMP_EQ": lambda given, value, _: given == value,
            "SCMP_CMP_NE": lambda given, value, _: given != value,
            "SCMP_CMP_GT": lambda given, value, _: given > value,
            "SCMP_CMP_MASKED_EQ": lambda given, mask, value: given & mask == value,
        }
        assert set(rule) == {"names", "action", "errnoRet", "args"} and rule["action"] == "SCMP_ACT_ERRNO"
        assert all(set(each) == {"index", "value", "op", "valueTwo"} for each in rule["args"])
        if name in rule["names"] and all(
            holds[each["op"]](arguments[each["index"]], each["value"], each["valueTwo"]) for each in rule["args"]
        ):
            return rule["errnoRet"]
    return 0


NAMED = {**seccomp.DENIED, **seccomp.NOT_THERE, **seccomp._LOOKED_INTO, **NEEDED}
WORD = st.sampled_from(
    [*range(50), *seccomp.IOCTLS.values(), *(1 << bit for bit in range(32)), 0xFFFFFFFF]
) | st.integers(0, 0xFFFFFFFF)


@BOTH
@given(data=st.data())
def test_the_profile_for_oci_engines_decides_as_the_sandbox_s_program_does(architecture, data):
    """But for `personality`, whose values it cannot say."""
    profile = json.loads(seccomp.oci_profile(architecture))
    arguments = data.draw(st.tuples(WORD, WORD, WORD))
    place = 0 if architecture is AMD64 else 1
    for name in (*seccomp._LOOKED_INTO, data.draw(st.sampled_from(sorted(NAMED)))):
        numbers = NAMED[name]
        if numbers[place] is None:
            assert not any(name in rule["names"] for rule in profile["syscalls"]), "the architecture has no such call"
        elif name != "personality":
            assert oci_decision(profile, name, arguments) == decision(architecture, numbers[place], arguments), name


@BOTH
def test_the_profile_for_oci_engines_names_its_architecture_and_allows_the_rest(architecture):
    profile = json.loads(seccomp.oci_profile(architecture))
    assert profile["defaultAction"] == "SCMP_ACT_ALLOW"
    assert profile["architectures"] == [{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[architecture.name]]
    assert set(profile) == {"defaultAction", "architectures", "syscalls"}
    assert oci_decision(profile, "personality", (5,)) == 0
    for family in (0, 3, 15, 17, 45, 46, 255):
        assert oci_decision(profile, "socket", (family, 0, 0)) == errno.EPERM
    assert oci_decision(profile, "socketpair", (16, 0, 9)) == errno.EPERM
    assert oci_decision(profile, "socket", (16, 0, 0)) == oci_decision(profile, "socket", (1, 0, 9)) == 0
