"""What a host is: one TOML file per host in this folder, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from repro.base.errors import UsageError, VerificationFailed
from repro.base.toml import read_toml
from repro.base.typed_json import convert
from repro.base.values import Strict

HERE = Path(__file__).resolve().parent
Words = Annotated[str, Meta(min_length=1, max_length=400)]
ScenarioName = Literal["readme", "bundle", "verify"]
SCENARIOS: dict[ScenarioName, str] = {
    "readme": "README's first command",
    "bundle": "bundle installed and run, no network device",
    "verify": "audit.verify of a record made elsewhere",
}


class Scenario(Strict, frozen=True):
    """One thing that is done on the host, as an ordinary user.

    Attributes:
        name: which (SCENARIOS).
        until: 'report' for the whole of `reproduce`, or the stage that it ends with (`invoke stage.UNTIL`).
        engine: as `--engine` takes it.
        batch_size: of the run on golden's corpus.
        refused: where the product must refuse: words that it must print; '' where the scenario must end well.
        minutes: time limit.
    """

    name: ScenarioName
    until: Annotated[str, Meta(pattern="^[a-z-]+$")] = "report"
    engine: Literal["auto", "docker", "podman", "sandbox"] = "auto"
    batch_size: Annotated[int, Meta(ge=1, le=64)] = 4
    refused: str = ""
    minutes: Annotated[int, Meta(ge=1, le=600)] = 60


class Host(Strict, frozen=True):
    """A machine that is not ours.

    Attributes:
        title: its name on the page; `shows`: what of it differs from other hosts.
        suite, arch: Debian's; `kernel`, `packages`: Debian packages beside those of every host.
        processor: QEMU's model of it, when it is emulated.
        boot: words for the kernel's command line.
        disk: shell, run as root while the disk is made; its folder is $1.
        start: shell, run as root in the started machine before the first scenario.
    """

    title: Words
    shows: Words
    suite: Annotated[str, Meta(pattern="^[a-z]+$")]
    arch: Literal["amd64", "arm64"]
    kernel: Annotated[str, Meta(pattern="^linux-image-[a-z0-9.-]+$")]
    scenario: Annotated[tuple[Scenario, ...], Meta(min_length=1)]
    packages: tuple[Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9+.-]*$")], ...] = ()
    processor: Annotated[str, Meta(pattern="^[A-Za-z0-9_.,=+-]+$")] = "max"
    cores: Annotated[int, Meta(ge=1, le=64)] = 2
    memory_mib: Annotated[int, Meta(ge=512, le=65536)] = 6144
    disk_gib: Annotated[int, Meta(ge=2, le=200)] = 20
    boot: str = ""
    disk: str = ""
    start: str = ""


def names() -> list[str]:
    """Of every host."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load(name: str) -> Host:
    """The host of that name.

    Raises:
        UsageError: there is none, or its file says something else than a host.
    """
    if name not in names():
        raise UsageError(f"no host is called {name!r}", hint="hosts: " + ", ".join(names()))
    path = HERE / f"{name}.toml"
    try:
        return convert(read_toml(path), Host, what=path.name)
    except VerificationFailed as error:
        raise UsageError(error.message) from error
