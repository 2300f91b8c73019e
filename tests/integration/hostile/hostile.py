"""A stage that tries all it can to get out. Each attempt prints one JSON line; the tests hold the lines, and the host.

Run as `python3 hostile.py ATTEMPT ARGUMENT...`. 'succeeded' is true when the attempt reached what it must not.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys
import time

CLONE_NEWUSER = 0x10000000


def report(attempt, succeeded, detail=""):
    print(json.dumps({"attempt": attempt, "succeeded": succeeded, "detail": str(detail)}), flush=True)


def tried(attempt, function):
    """Report whether `function` went through, which it must not."""
    try:
        report(attempt, True, function())
    except (OSError, ValueError) as error:
        report(attempt, False, error)


def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def write(path):
    """Open for writing alone is enough under /proc: what is written there would be obeyed."""
    with open(path, "a" if path.startswith("/proc/") else "w", encoding="ascii") as stream:
        if not path.startswith("/proc/"):
            stream.write("hostile")


def read(path):
    with open(path, encoding="ascii") as stream:
        return stream.read()


def connect(address):
    with socket.socket(socket.AF_UNIX if address.startswith("\0") else socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        host, _, port = address.partition(":")
        client.connect(address if address.startswith("\0") else (host, int(port)))


def reach_out(port, abstract_name):
    """The host's loopback, its abstract unix sockets, an address of the world, and a name of it."""
    tried("host loopback", lambda: connect("127.0.0.1:" + port))
    tried("host abstract socket", lambda: connect("\0" + abstract_name))
    tried("the world", lambda: connect("192.0.2.1:80"))
    tried("a name", lambda: socket.getaddrinfo("example.org", 80))
    with open("/proc/net/dev", encoding="ascii") as stream:
        names = [line.split(":")[0].strip() for line in stream if ":" in line]
    report("interfaces", names != ["lo"], names)


def write_around(inputs, out):
    outside = ["/hostile", "/usr/hostile", "/etc/passwd", "/etc/hostile", inputs + "/x"]
    outside += ["/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"]
    for path in outside:
        tried("write " + path, lambda path=path: write(path))
    shared = os.__file__  # of the image's own Python: in the sandbox, images share the files of a layer
    tried("write a file of the image", lambda: open(shared, "r+b").close())
    tried("chmod a file of the image", lambda: os.chmod(shared, 0o666))
    tried("touch a file of the image", lambda: os.utime(shared))
    tried("remove a file of the image", lambda: os.unlink(shared))
    tried("link a file of the image", lambda: os.link(shared, os.path.join(out, "linked")))
    tried("remount", lambda: libc_call("mount", None, b"/", None, 32 | 4096, None))
    tried("chmod input", lambda: os.chmod(inputs, 0o777))


def gain(out):
    """Privileges: bits on a file of one's own, namespaces, devices, another user."""
    path = os.path.join(out, "suid")
    write(path)
    os.chmod(path, 0o6755)
    tried("device node", lambda: os.mknod("/tmp/device", 0o020666, os.makedev(1, 1)))
    tried("another user", lambda: os.setuid(12345))
    tried("chroot", lambda: os.chroot("/tmp"))
    tried("kernel log", lambda: os.close(os.open("/dev/kmsg", os.O_RDWR)))
    with open("/proc/self/status", encoding="ascii") as stream:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
    for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
        report(name, int(status[name], 16) != 0, status[name])
    report("NoNewPrivs", status["NoNewPrivs"] != "1", status["NoNewPrivs"])
    tried("user namespace", lambda: libc_call("unshare", CLONE_NEWUSER))


def look_around(secret):
    """The host's files by every road that comes to mind, and its processes."""
    for root in ("", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../.."):
        tried("secret by " + (root or "path"), lambda root=root: read(root + secret))
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    report("host processes", len(pids) > 16 or max(pids) > 1000, pids)
    own = ["PWD", "HOME", "HOSTNAME", "LANG", "PATH", "TZ", "HOSTILE_MARK"]
    report("environment", sorted(set(os.environ) - set(own)) != [], sorted(os.environ))


def leave_behind():
    """A daemon of its own session that ignores signals, and a zombie; then end well."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            time.sleep(600)
        os._exit(0)
    os.wait()
    time.sleep(0.2)
    zombies = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with open("/proc/" + name + "/stat", encoding="ascii") as stream:
            fields = stream.read().rpartition(")")[2].split()
        if fields[0] == "Z":
            zombies.append(name)
    report("zombies", bool(zombies), zombies)


def stay(at_most):
    """Fork without end (up to `at_most`, where nothing limits it), ignore every signal, and never end."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    count = 0
    try:
        while count < int(at_most):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            count += 1
        report("forks", True, count)
    except OSError as error:
        report("forks", False, f"{error} after {count}")
    while True:
        time.sleep(600)


def swallow():
    """More memory than allowed, in a child too."""
    kept = []
    while True:
        kept.append(bytearray(b"x" * (16 << 20)))


def call_kernel(numbers):
    """Each system call of a list, as harmlessly as it can be called; what the kernel answers."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in json.loads(numbers).items():
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(-1) for _ in range(6)))
        code = ctypes.get_errno() if result == -1 else 0
        report(name, code == 0, errno.errorcode.get(code, "OK"))


def sockets():
    """One socket of each family that the kernel may know."""
    for family in range(1, 46):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
            report(str(family), True)
        except OSError as error:
            report(str(family), False, errno.errorcode.get(error.errno, error.errno))


def foreign_abi():
    """getpid by the numbers of another ABI: i386's through int 0x80, and x32's."""
    import mmap

    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    programs = {"i386": b"\xb8\x14\x00\x00\x00\xcd\x80\xc3", "x32": b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"}
    for name, program in programs.items():
        code.seek(0)
        code.write(program)
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        result = function()
        report(name, result > 0, errno.errorcode.get(-result, result))


def command_lines():
    """What each process of the sandbox was started with."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with open("/proc/" + name + "/cmdline", "rb") as stream:
            report(name, False, stream.read().decode("utf-8", "replace").split("\0-c\0")[0])


def places():
    """Where something can be written, how each mount is mounted, and what the control group's limits are."""
    for path in ("/", "/dev", "/dev/shm", "/tmp", "/run", "/sys", "/proc", "/usr", "/etc"):
        try:
            with open(path + "/hostile", "w", encoding="ascii") as stream:
                stream.write("x")
            report("write " + path, True)
        except OSError as error:
            report("write " + path, False, error)
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        for line in stream:
            fields = line.split()
            report("mount " + fields[4], False, fields[5])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
