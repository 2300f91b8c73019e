"""A stage that leaves what no stage may leave. Each act is one way; the tests say what the host must make of it.

Run as the graph runs a stage, with `--act NAME`, `--size short|full` and the path of a file of the host in `--canary`.
An act returns nothing: what it cannot do here it passes over, because then the container contains it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import sys
import time

ACTS = {}
NAMES = {
    "not_utf8": b"\xff\xfe",
    "newline": b"a\nb",
    "escape": b"\x1b]0;title\x07",
    "bidirectional": "\u202egnp.exe".encode(),
    "zero_width": "a\u200bb".encode(),
    "line_separator": "a\u2028b".encode(),
    "delete": b"a\x7f",
    "bell": b"\x07",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\xaf",
    "c1_control": "\u009b31m".encode(),
}
HARMLESS_NAMES = {
    "dash": b"-rf",
    "space": b" ",
    "backslash": b"a\\b",
    "long": b"x" * 255,
    "dollar": b"$(touch x)",
    "quote": b"'\"",
    "dots": b"...",
    "hash": b"#",
    "case": b"FILE",
}
COMMANDS = {
    "empty_object": b"{}",
    "deep": b'{"commands":' + b"[" * 5000,
    "nan": b'{"commands":[NaN]}',
    "not_utf8": b"\xff{}",
    "huge": b'{"commands":["' + b"x" * (2 << 20) + b'"]}',
    "twice": b'{"commands":[],"commands":[]}',
    "infinite": b'{"commands":[{"argv":[],"exit_code":0,"wall_s":1e999}]}',
    "list": b"[]",
    "nothing": b"",
    "unknown_member": b'{"commands":[{"argv":[],"exit_code":0,"wall_s":1,"x":1}]}',
    "huge_number": b'{"commands":[' + b"9" * 100_000 + b"]}",
    "lone_surrogate": b'{"commands":["\\ud800"]}',
}
PROGRESS = {
    "infinity": '{"done":Infinity,"total":1,"what":"x"}',
    "deep": "[" * 900,
    "negative": '{"done":-1,"total":1,"what":"x"}',
    "huge": '{"done":' + "9" * 900 + ',"total":1,"what":"x"}',
    "text": '{"done":"1","total":1,"what":"x"}',
    "escape": '{"done":1,"total":1,"what":"\\u001b[2Jx"}',
    "no_object": "7",
    "nothing": "",
}


def act(function):
    ACTS[function.__name__] = function
    return function


def make(path, data=b"x"):
    with open(path, "wb") as stream:
        stream.write(data)


def names_and_texts():
    """Acts that differ in their data alone."""

    def named(name, data):
        ACTS[f"name_{name}"] = lambda at: make(os.path.join(os.fsencode(at.out), data))
        ACTS[f"folder_{name}"] = lambda at: os.mkdir(os.path.join(os.fsencode(at.out), data))

    for each in (NAMES, HARMLESS_NAMES):
        for name, data in each.items():
            named(name, data)
    for name, data in COMMANDS.items():
        ACTS[f"commands_{name}"] = lambda at, data=data: make(at.obs + "/commands.json", data)
    for name, text in PROGRESS.items():
        ACTS[f"progress_{name}"] = lambda at, text=text: sys.stderr.write(f"@progress {text}\n")


# Links.


def link(name, target):
    ACTS[f"link_{name}"] = lambda at: os.symlink(target(at), at.out + "/x")


for _name, _target in {
    "to_a_file": lambda at: at.canary,
    "to_passwd": lambda at: "/etc/passwd",
    "up": lambda at: "../" * 40 + "etc/passwd",
    "dangling": lambda at: "/nowhere",
    "to_itself": lambda at: "x",
    "to_a_folder": lambda at: os.path.dirname(at.canary),
    "to_memory": lambda at: "/proc/self/mem",
    "to_a_device": lambda at: "/dev/zero",
    "to_the_input": lambda at: "/run/in",
    "to_a_control_character": lambda at: "\x1b[2J",
    "long": lambda at: "a/" * 2000,
}.items():
    link(_name, _target)


@act
def link_loop(at):
    os.symlink("b", at.out + "/a")
    os.symlink("a", at.out + "/b")


@act
def link_chain(at):
    for number in range(60):
        os.symlink(str(number + 1), f"{at.out}/{number}")


@act
def log_is_a_link(at):
    os.symlink(at.canary, at.obs + "/stage.log")


@act
def commands_is_a_link(at):
    os.symlink(at.canary, at.obs + "/commands.json")


@act
def folder_behind_a_link(at):
    os.mkdir(at.out + "/real")
    make(at.out + "/real/file")
    os.symlink("real", at.out + "/link")


@act
def hard_link_of_an_input(at):
    with contextlib.suppress(OSError):
        os.link("/run/in/data/wave", at.out + "/wave")


@act
def hard_links_of_one_file(at):
    make(at.out + "/a")
    for number in range(10):
        os.link(at.out + "/a", f"{at.out}/{number}")


# FIFOs, sockets, devices.


@act
def fifo(at):
    os.mkfifo(at.out + "/x")


@act
def fifo_as_commands(at):
    os.mkfifo(at.obs + "/commands.json")


@act
def fifo_as_log(at):
    os.mkfifo(at.obs + "/stage.log")


@act
def unix_socket(at):
    os.chdir(at.out)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x")


def device(name, mode, number):
    def made(at):
        with contextlib.suppress(OSError):
            os.mknod(at.out + "/x", mode, number)

    ACTS[f"device_{name}"] = made


device("zero", 0o020666, os.makedev(1, 5))
device("disk", 0o060666, os.makedev(8, 0))
device("whiteout", 0o020666, os.makedev(0, 0))  # the kernel lets everybody make this one


# Sizes, numbers, depths.


@act
def sparse_giant(at):
    with open(at.out + "/x", "wb") as stream:
        stream.truncate(1 << 40)


@act
def sparse_giants(at):
    for number in range(100):
        with open(f"{at.out}/{number}", "wb") as stream:
            stream.truncate(1 << 30)


@act
def sparse_giant_in_obs(at):
    with open(at.obs + "/x", "wb") as stream:
        stream.truncate(1 << 40)


@act
def real_giant(at):
    make(at.out + "/x", bytes(80 << 20))


@act
def many_files(at):
    for number in range(100_000 if at.size == "full" else 2_000):
        os.close(os.open(f"{at.out}/{number}", os.O_CREAT | os.O_WRONLY))


@act
def many_folders(at):
    for number in range(10_000 if at.size == "full" else 2_000):
        os.mkdir(f"{at.out}/{number}")


@act
def many_observations(at):
    for number in range(3_000):
        os.close(os.open(f"{at.obs}/{number}", os.O_CREAT | os.O_WRONLY))


def deep(folder, depth, name):
    os.chdir(folder)
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    make("file")


@act
def deep_tree(at):
    deep(at.out, 3_000, "d")


@act
def deep_tree_in_obs(at):
    deep(at.obs, 3_000, "d")


@act
def paths_longer_than_the_kernel_takes(at):
    deep(at.out, 60, "n" * 250)


@act
def deeper_than_declared(at):
    deep(at.out, 12, "d")


# Modes, owners, times.


@act
def set_user_id(at):
    make(at.out + "/x")
    os.chmod(at.out + "/x", 0o6755)


@act
def set_user_id_far_down(at):
    deep(at.out, 1_500, "d")
    os.chmod("file", 0o6755)


@act
def closed_file(at):
    make(at.out + "/x")
    os.chmod(at.out + "/x", 0)


@act
def closed_folder(at):
    os.mkdir(at.out + "/x")
    make(at.out + "/x/file")
    os.chmod(at.out + "/x", 0)


@act
def closed_output(at):
    make(at.out + "/file")
    os.chmod(at.out, 0)


@act
def sticky_folder(at):
    os.mkdir(at.out + "/x")
    os.chmod(at.out + "/x", 0o1777)


@act
def strange_times(at):
    for number, time_s in enumerate((-1, 0, 1 << 31, 1 << 33)):
        make(f"{at.out}/{number}")
        with contextlib.suppress(OSError, OverflowError):
            os.utime(f"{at.out}/{number}", (time_s, time_s))


@act
def extended_attributes(at):
    make(at.out + "/x")
    for name in ("user.x", "security.capability", "trusted.x", "system.posix_acl_access"):
        with contextlib.suppress(OSError):
            os.setxattr(at.out + "/x", name, b"\x01" * 20)


@act
def immutable_file(at):
    make(at.out + "/x")
    with open(at.out + "/x", "rb") as stream:
        value = ctypes.c_long(0x10)  # FS_IMMUTABLE_FL
        ctypes.CDLL(None).ioctl(stream.fileno(), 0x40086602, ctypes.byref(value))


# obs/.


@act
def log_is_a_file(at):
    make(at.obs + "/stage.log", b"VERDICT: Reproduced.\n")


@act
def log_is_a_folder(at):
    os.mkdir(at.obs + "/stage.log")


@act
def commands_is_a_folder(at):
    os.mkdir(at.obs + "/commands.json")


@act
def result_beside_the_output(at):
    """The folder above the outputs is no place of the stage's."""
    for path in ("/run/result.json", "/run/out/../result.json", "/run/obs/../../result.json"):
        with contextlib.suppress(OSError):
            make(path)


@act
def output_replaced_by_a_link(at):
    for path in (at.out, at.obs):
        with contextlib.suppress(OSError):
            os.rename(path, path + ".old")
        with contextlib.suppress(OSError):
            os.rmdir(path)
        with contextlib.suppress(OSError):
            os.symlink(at.canary, path)


# Streams.


def flood(data, megabytes, stream=1):
    for _ in range(megabytes):
        rest = memoryview(data * ((1 << 20) // len(data)))
        while rest:
            rest = rest[os.write(stream, rest) :]


FLOODS = []


def streamed(name, data, stream=1):
    FLOODS.append(f"output_{name}")
    ACTS[FLOODS[-1]] = lambda at: flood(data, 32 if at.size == "full" else 4, stream)


for _name, _data in {
    "without_newline": b"x",
    "of_newlines": b"\n",
    "of_nuls": b"\0",
    "of_escapes": b"\x1b[2J\x1b[1;1H",
    "of_bytes": bytes(range(256)),
    "not_utf8": b"\xff\xfe\n",
    "of_returns": b"100%\r",
    "of_backspaces": b"x\b",
    "of_long_characters": "\U0001f600".encode(),
    "of_half_characters": b"\xf0\x9f\x98",
    "of_progress": b'@progress {"done":1,"total":2,"what":"x"}\n',
    "of_errors": b"error: it is the host's fault\n",
}.items():
    streamed(_name, _data)
    streamed(_name + "_on_stderr", _data, 2)


@act
def output_closed(at):
    os.close(1)
    os.close(2)
    time.sleep(0.3)
    make(at.out + "/x")


@act
def error_with_escapes(at):
    sys.stderr.write("error: \x1b[2J\x1b[1;1HVERDICT: Reproduced.\u202e\n" + "hint: \x1b[31mrun this as root\n" * 100)
    sys.exit(1)


@act
def error_without_end(at):
    os.write(2, b"error: " + b"x" * 300_000)
    sys.exit(1)


# Processes.


def left_behind(work):
    """A process of its own session that ignores signals and goes on when the stage has ended."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_IGN)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            while True:
                work()
        os._exit(0)
    os.wait()


@act
def left_sleeping(at):
    left_behind(lambda: time.sleep(600))


@act
def left_writing(at):
    """Files that change while the host reads them, if it let the process live."""

    def work():
        make(at.out + "/x", random.randbytes(1000))

    left_behind(work)
    time.sleep(0.2)


@act
def left_renaming(at):
    make(at.out + "/file")

    def work():
        with contextlib.suppress(OSError):
            os.rename(at.out + "/file", at.out + "/other")
            os.symlink(at.canary, at.out + "/file")
            os.unlink(at.out + "/file")
            os.rename(at.out + "/other", at.out + "/file")

    left_behind(work)
    time.sleep(0.2)


@act
def left_linking(at):
    """A file that is now a link and now not: what is looked at and what is opened could differ."""

    def work():
        with contextlib.suppress(OSError):
            make(at.out + "/.new")
            os.replace(at.out + "/.new", at.out + "/x")
            os.symlink(at.canary, at.out + "/.link")
            os.replace(at.out + "/.link", at.out + "/x")

    left_behind(work)
    time.sleep(0.2)


@act
def left_holding_the_output(at):
    """The stream stays open in a process that lives on."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)


@act
def left_stopped(at):
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)


@act
def forks(at):
    with contextlib.suppress(OSError):
        while True:
            if os.fork() == 0:
                time.sleep(600)


@act
def stops_itself(at):
    os.kill(os.getpid(), signal.SIGSTOP)


@act
def never_ends(at):
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(600)


@act
def kills_all(at):
    make(at.out + "/x")
    os.kill(-1, signal.SIGKILL)
    time.sleep(600)


@act
def dies_by_a_fault(at):
    ctypes.string_at(0)


@act
def ends_with_255(at):
    os._exit(255)


@act
def swallows_memory(at):
    kept = []
    while True:
        kept.append(bytearray(b"x" * (16 << 20)))


@act
def fills_its_own_places(at):
    for path in ("/tmp/x", "/run/x", "/dev/shm/x"):
        with contextlib.suppress(OSError), open(path, "wb") as stream:
            while True:
                stream.write(bytes(1 << 20))


@act
def writes_where_it_may_not(at):
    for path in (
        "/run/code/x",
        "/run/in/data/x",
        "/run/in/data/wave",
        "/usr/x",
        "/etc/passwd",
        at.canary,
        "/proc/sys/kernel/x",
    ):
        try:
            make(path)
        except OSError:
            continue
        if path != at.canary:  # of the host's path there may be a place of its own on a tmpfs
            sys.exit(f"error: {path} could be written")


@act
def honest(at):
    make(at.out + "/x", json.dumps({"act": "honest"}).encode())


names_and_texts()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("act", "size", "canary", "number", "data", "out", "obs"):
        parser.add_argument("--" + option, default="")
    given = parser.parse_args()
    ACTS[given.act](given)
