"""Every command of every guide, verbatim: as an ordinary user in an empty home, offline where the guide says so.

Not a part of CI's ordinary run, as it takes ten minutes and 10 GB: GUIDES=short runs it. That form shares one run and
one bundle among all pages, and leaves out the blocks marked `long`. `invoke test --full` runs everything,
each installed folder with results of its own. What a page may hold at all is a quick test: tests/unit/test_guides.py.

Words in capitals that a guide leaves to its reader are filled in: NAME, FINGERPRINT, SHA256, RUN, CHECKOUT, COMMIT,
TOOLS and EARLIER.tar.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from repro.base.files import remove_tree
from repro.base.paths import Paths
from tests.forms import FULL
from tests.guides.blocks import PAGES, ROOT, Block, blocks_of, missing_line
from tests.guides.terminal import Said, Terminal

pytestmark = pytest.mark.skipif(
    not FULL and os.environ.get("GUIDES") != "short",
    reason="ten minutes and 10 GB: GUIDES=short, or `invoke test --full`",
)
NOBODY = 54321  # a user that has no name, no home and no group anywhere
TIMEOUT_S = 1800.0
NAME = "demo-bundle"
KEPT = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_FIND_LINKS")  # fmt: skip


@dataclass
class World:
    """A folder with everything that the guides' readers have.

    Attributes:
        folder: of the test.
        user: words before a command that make it an ordinary user's; none where the tests are run by one.
        path: PATH of the terminals.
        fills: what stands for the words that a guide leaves to its reader.
        commit: of the checkout.
    """

    folder: Path
    user: tuple[str, ...]
    path: str
    fills: dict[str, str] = field(default_factory=dict)
    homes: int = 0
    commit: str = ""

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def own(self, *paths: Path) -> None:
        """Make folders, and files that no other name leads to, the user's."""
        for path in paths:
            if self.user:
                os.chown(path, NOBODY, NOBODY)

    def new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        self.own(folder)
        return folder

    def terminal(self, place: str, *, offline: bool) -> Terminal:
        """A shell of the user, in an empty home."""
        self.homes += 1
        home = self.new_folder(f"home.{self.homes}")
        environment = {"PATH": self.path, "LANG": "C.UTF-8", "TERM": "dumb", "HOME": str(home)}
        environment.update(DOCKER_HOST="unix:///nowhere", CONTAINER_HOST="unix:///nowhere")
        if not offline:
            environment.update({name: os.environ[name] for name in KEPT if name in os.environ})
        if place == "received" and not FULL:
            environment["BUNDLE_RESULTS"] = str(self.checkout / "artifacts")
        before = (*(("unshare", "-n") if offline else ()), *self.user)
        where = self.folder / ("received" if place == "received" else "checkout")
        return Terminal(before, where, environment, self.new_folder(f"scratch.{self.homes}"))

    def receive(self) -> None:
        """Make sure that there is a bundle with a run in it, and that its maker has told two lines about it."""
        if self.fills:
            return
        received = self.folder / "received"
        if not received.exists():
            self.new_folder("received")
        maker = self.terminal("maker", offline=False)
        bundle = received / f"{NAME}.tar"
        commands = (
            "./bootstrap reproduce --bs 8\n. .venv/bin/activate\ninvoke bundle.keys.make\n"
            f"invoke bundle.pack --run latest --to {bundle}\n"
        )
        try:
            said = maker.run(commands, TIMEOUT_S)
        finally:
            maker.close()
        assert said.exit_code == 0, said.output
        with tarfile.open(bundle, "r:") as archive:
            names = archive.getnames()
            script = archive.extractfile("install.py")
            assert script is not None
            digest = hashlib.sha256(script.read()).hexdigest()
        run = next(name for name in names if re.fullmatch(r"tree/artifacts/received/[^/]+/record\.json", name))
        found = re.search(r"^fingerprint ([0-9a-f]{64})", said.output, re.MULTILINE)
        assert found
        self.fills.update(
            {"EARLIER.tar": str(bundle), "NAME": NAME, "FINGERPRINT": found.group(1), "SHA256": digest,
             "TOOLS": str(self.tools()), "RUN": run.split("/")[3], "CHECKOUT": str(self.checkout),
             "COMMIT": self.commit}
        )  # fmt: skip

    def tools(self) -> Path:
        """What stands for a reader's own environment with other people's tools: the libraries of these tests."""
        found = find_spec("securesystemslib")
        assert found is not None and found.origin is not None, "requirements/test.txt is not installed"
        python = self.new_folder("tools") / "bin" / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nPYTHONPATH={Path(found.origin).parent.parent} exec python3 "$@"\n')
        python.chmod(0o755)
        return python.parent.parent

    def tidy(self) -> None:
        """Remove what a page's reader made of the bundle: 4 GB for each installation."""
        received = self.folder / "received"
        for path in received.iterdir() if received.exists() else ():
            if path.name != f"{NAME}.tar":
                remove_tree(path)

    def filled(self, text: str) -> str:
        words = "|".join(sorted(map(re.escape, self.fills), key=len, reverse=True))
        return (
            re.sub(rf"(?<![A-Za-z_$])({words})(?![A-Za-z_])", lambda m: self.fills[m.group()], text) if words else text
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    for tool in ("jq", "openssl"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine, which the recipes use")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = World(folder, *_user())
        subprocess.run(["git", "clone", "-q", str(ROOT), str(made.checkout)], check=True)
        words = ["git", "-C", str(made.checkout), "rev-parse", "HEAD"]
        made.commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        for parent, folders, files in os.walk(made.checkout):
            made.own(Path(parent), *(Path(parent, each) for each in (*folders, *files)))
        _share_what_was_fetched(made)
        made.own(folder)
        yield made


def _user() -> tuple[tuple[str, ...], str]:
    """An ordinary user's words and PATH: another one where root runs the tests and the system's Python has venv."""
    words = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    probe = [*words, "python3", "-I", "-c", "import ensurepip, venv"]
    environment = {"PATH": os.defpath, "HOME": "/nonexistent"}
    if os.geteuid() == 0:
        if subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == 0:
            return words, os.defpath
        pytest.skip("root runs the tests, and the system's Python has no venv for another user")
    return (), os.environ["PATH"]


def _share_what_was_fetched(world: World) -> None:
    """The caches of this checkout by hard links: their folders are the user's, their files stay as they are."""
    shared = Paths(ROOT)
    world.own(world.checkout, *([] if (world.checkout / "artifacts").mkdir() else [world.checkout / "artifacts"]))
    for source in (shared.oci, shared.layer_index, shared.artifacts / "cache"):
        if source.exists():
            target = world.checkout / "artifacts" / source.name
            shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(".*"))
            for parent, _, _ in os.walk(target):
                world.own(Path(parent))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _run(world: World, terminal: Terminal, block: Block) -> Said:
    said = terminal.run(world.filled(block.commands), TIMEOUT_S)
    where = f"{block.page}:{block.line}"
    assert said.exit_code == block.exit_code, f"{where} ended with {said.exit_code}:\n{block.commands}\n{said.output}"
    results = terminal.environment.get(
        "BUNDLE_RESULTS"
    )  # of the short form; its reader sees where they lie, and no more
    printed = said.output.replace(f"{results}/", "artifacts/") if results else said.output
    missing = missing_line(tuple(map(world.filled, block.prints)), printed)
    assert not missing, f"{where} does not print {missing!r}:\n{block.commands}\n{said.output}"
    return said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.not_run for block in blocks_of(page))])
def test_every_command_of_a_guide_runs_as_it_stands_there(world: World, page: str):
    terminal: Terminal | None = None
    try:
        for block in blocks_of(page):
            if block.start:
                if block.start == "received" or block.offline:
                    world.receive()
                if terminal is not None:
                    terminal.close()
                terminal = world.terminal(block.start, offline=block.offline)
            if block.not_run or (block.long and not FULL):
                continue
            assert terminal is not None  # blocks_of has seen to it
            _run(world, terminal, block)
    finally:
        if terminal is not None:
            terminal.close()
        world.tidy()
