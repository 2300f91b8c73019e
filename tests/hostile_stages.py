"""What a hostile stage may do, one program each: run by the unit tests in place of a stage, and in real containers.

Each program finds OUT and OBS, the two folders that it may write to, and VICTIM, a path outside of them.
`refused` is what the error of that stage must say; '' where the stage does no harm and its result is taken.
"""
# ruff: noqa: E501 - one program per line reads better than its pieces

from __future__ import annotations

from typing import NamedTuple

PRELUDE = """\
import errno, json, os, socket, stat, sys, time
OUT, OBS, VICTIM = os.environ["OUT"], os.environ["OBS"], os.environ["VICTIM"]
def write(path, data=b"x"):
    with open(path, "wb") as stream:
        stream.write(data)
def sock(path):
    os.chdir(os.path.dirname(path))
    socket.socket(socket.AF_UNIX).bind(os.path.basename(path))
def deep(top, depth, name="d"):
    os.chdir(top)
    for _ in range(depth):
        os.mkdir(name)
        os.chdir(name)
    write("f")
def progress(text):
    print("@progress " + text, file=sys.stderr, flush=True)
def say(data):
    os.write(2, data)
write(OUT + "/result")
"""


class Hostile(NamedTuple):
    """A program, and what the error must say."""

    program: str
    refused: str


_LINKS = {
    f"{kind} in {part}": Hostile(f"os.symlink({target!r}, {part.upper()} + '/{name}')", "is a symbolic link")
    for part in ("out", "obs")
    for kind, name, target in (
        ("link to a file of the host", "link", "/etc/passwd"),
        ("link to a folder of the host", "link", "/etc"),
        ("dangling link", "link", "/nonexistent"),
        ("link to itself", "link", "link"),
        ("link to its own folder", "link", "."),
        ("link upwards", "link", "../../.."),
        ("link to a device", "link", "/dev/zero"),
    )
}
_KINDS = {
    f"{kind} in {part}": Hostile(program.format(part.upper()), why)
    for part in ("out", "obs")
    for kind, program, why in (
        ("FIFO", "os.mkfifo({} + '/pipe')", "is a FIFO"),
        ("socket", "sock({} + '/socket')", "is a socket"),
        ("link in a folder", "os.mkdir({0} + '/a'); os.symlink('/etc/passwd', {0} + '/a/b')", "is a symbolic link"),
        ("FIFO in a folder", "os.mkdir({0} + '/a'); os.mkfifo({0} + '/a/b')", "is a FIFO"),
    )
}
_NAMES = {
    f"name: {what}": Hostile(f"write(os.fsencode(OUT) + {b'/' + name!r})", why)
    for what, name, why in (
        ("not UTF-8", b"\xff\xfe name", "not UTF-8"),
        ("a line end", b"a\nb", "not a plain name"),
        ("an escape sequence", b"\x1b[2J", "not a plain name"),
        ("a tab", b"a\tb", "not a plain name"),
        ("a direction mark", "a\u202eb".encode(), "not a plain name"),
        ("a zero-width space", "a\u200bb".encode(), "not a plain name"),
        ("a line separator", "a\u2028b".encode(), "not a plain name"),
        ("half of a surrogate pair", b"\xed\xa0\x80", "not UTF-8"),
    )
}
_AMOUNTS = {
    "a file of a terabyte without content": Hostile(
        "write(OUT + '/giant'); os.truncate(OUT + '/giant', 1 << 40)", "more than"
    ),
    "a file of an exabyte in obs": Hostile(
        "write(OBS + '/giant')\ntry:\n    os.truncate(OBS + '/giant', 1 << 42)\nexcept OSError:\n"
        "    os.truncate(OBS + '/giant', 1 << 40)",
        "more than",
    ),
    "1,500 files": Hostile("[write(OUT + '/%d' % n, b'') for n in range(1500)]", "more than"),
    "1,500 folders": Hostile("[os.mkdir(OUT + '/%d' % n) for n in range(1500)]", "more than"),
    "2,500 observations": Hostile("[write(OBS + '/%d' % n, b'') for n in range(2500)]", "more than"),
    "3,000 nested folders": Hostile("deep(OUT, 3000)", "deep"),
    "200 nested folders in obs": Hostile("deep(OBS, 200)", "deep"),
    "nested folders whose path is too long": Hostile("deep(OUT, 100, 'n' * 200)", "deep"),
}
_MODES = {
    "a setuid file": Hostile("write(OUT + '/s'); os.chmod(OUT + '/s', 0o4755)", "setuid or setgid|^$"),
    "a setgid file": Hostile("write(OUT + '/s'); os.chmod(OUT + '/s', 0o2755)", "setuid or setgid|^$"),
    "a file that nobody may read": Hostile("os.chmod(OUT + '/result', 0)", "cannot be read|^$"),
    "a folder that nobody may enter": Hostile("os.mkdir(OUT + '/a'); os.chmod(OUT + '/a', 0)", "cannot be read|^$"),
    "out/ itself closed": Hostile("os.chmod(OUT, 0)", "cannot be read|^$"),
    "obs/ itself closed": Hostile("os.chmod(OBS, 0)", "cannot be read|^$"),
    "a folder that nobody may write": Hostile("os.mkdir(OUT + '/a'); write(OUT + '/a/b'); os.chmod(OUT + '/a', 0o555)", ""),
    "two names of one file": Hostile("os.link(OUT + '/result', OUT + '/second')", ""),
}  # fmt: skip
_HOST_FILES = {
    "the host's log as a link": Hostile("os.symlink(VICTIM, OBS + '/stage.log'); print('OWNED')", "symbolic link"),
    "the host's log as a folder": Hostile("os.mkdir(OBS + '/stage.log')", "host's own name"),
    "the host's log as a file": Hostile("write(OBS + '/stage.log', b'forged')", "host's own name"),
    "the host's readings as a file": Hostile("write(OBS + '/machine.json', b'{}')", "host's own name"),
    "the host's readings as a folder": Hostile("os.mkdir(OBS + '/machine.json')", "host's own name"),
    "the host's log as a FIFO": Hostile("os.mkfifo(OBS + '/stage.log')", "is a FIFO"),
    "the host's log as a second name of a file": Hostile(
        "write(OBS + '/a'); os.link(OBS + '/a', OBS + '/stage.log')", "host's own name"
    ),
    "result.json": Hostile("write(OUT + '/result.json', b'{}')", ""),
    "commands as a FIFO": Hostile("os.mkfifo(OBS + '/commands.json')", "is a FIFO"),
    "commands as a link": Hostile("os.symlink('/etc/passwd', OBS + '/commands.json')", "symbolic link"),
    "commands as a folder": Hostile("os.mkdir(OBS + '/commands.json')", ""),
    "commands that are empty": Hostile("write(OBS + '/commands.json', b'')", "commands.json"),
    "commands {}": Hostile("write(OBS + '/commands.json', b'{}')", "missing required field"),
    "commands of numbers": Hostile("write(OBS + '/commands.json', b'{\"commands\": [1]}')", r"commands\[0\]"),
    "a command that no record takes": Hostile(
        "write(OBS + '/commands.json', b'{\"commands\": [{\"argv\": [], \"exit_code\": 1%s, \"wall_s\": 1}]}' % (b'0' * 300))",
        "exit_code",
    ),
    "a command of negative length": Hostile(
        "write(OBS + '/commands.json', b'{\"commands\": [{\"argv\": [], \"exit_code\": 0, \"wall_s\": -5}]}')", "wall_s"
    ),
    "commands NaN": Hostile("write(OBS + '/commands.json', b'{\"commands\": NaN}')", "commands.json"),
    "commands deeply nested": Hostile("write(OBS + '/commands.json', b'[' * 100000)", "nested"),
    "commands of ten megabytes": Hostile("write(OBS + '/commands.json', b' ' * 10000000)", "bytes"),
    "commands of one huge number": Hostile("write(OBS + '/commands.json', b'9' * 500000)", "digits"),
    "commands not UTF-8": Hostile("write(OBS + '/commands.json', b'{\"commands\": [\"\\xff\"]}')", "UTF-8"),
    "commands with a key twice": Hostile("write(OBS + '/commands.json', b'{\"commands\":[],\"commands\":[]}')", "twice"),
}  # fmt: skip
_STREAMS = {
    "progress Infinity": Hostile("progress('{\"done\": Infinity, \"total\": 10, \"what\": \"x\"}')", ""),
    "progress 1e400": Hostile("progress('{\"done\": 1e400, \"total\": 10, \"what\": \"x\"}')", ""),
    "progress deeply nested": Hostile("progress('[' * 60000)", ""),
    "progress negative": Hostile("progress('{\"done\": -1, \"total\": -5, \"what\": \"x\"}')", ""),
    "progress with a huge number": Hostile("progress('{\"done\": ' + '9' * 5000 + ', \"total\": 1, \"what\": \"x\"}')", ""),
    "progress of other types": Hostile("progress('{\"done\": \"a\", \"total\": [], \"what\": {}}')", ""),
    "progress that draws": Hostile(
        "progress(json.dumps({'done': 1, 'total': 9, 'what': '\\x1b]0;PWNED\\x07\\x1b[2J VERDICT: Reproduced.\\r\\n'}))", ""
    ),
    "progress with half of a surrogate pair": Hostile("progress('{\"done\": 1, \"total\": 9, \"what\": \"\\\\ud800\"}')", ""),
    "output that is not UTF-8": Hostile("say(b'\\xff\\xfe\\x00\\x80' * 100 + b'\\n')", ""),
    "a line of 5 MB": Hostile("say(b'x' * 5000000 + b'\\n')", ""),
    "output without a line end": Hostile("say(b'no end')", ""),
    "100,000 lines": Hostile("say(b'line\\n' * 100000)", ""),
    "output with control characters": Hostile("say(bytes(range(32)) * 10 + b'\\n')", ""),
    "an error that draws": Hostile(
        "say(b'hint: \\x1b]52;c;cm0gLXJmIH4K\\x07 \\x1b[1A\\n'); say(b'error: \\x1b[2Jspoofed\\n'); sys.exit(3)", "spoofed"
    ),
    "a verdict in place of an error": Hostile(
        "print('\\x1b[2J\\x1b[HVERDICT: Reproduced.\\nEvery claim holds.'); sys.exit(1)", "exit code 1"
    ),
    "10,000 hints": Hostile("say(b'hint: do\\n' * 10000 + b'error: no\\n'); sys.exit(3)", "no"),
}  # fmt: skip

HOSTILE: dict[str, Hostile] = {**_LINKS, **_KINDS, **_NAMES, **_AMOUNTS, **_MODES, **_HOST_FILES, **_STREAMS}
