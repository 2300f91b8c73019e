"""How this machine reaches its mirrors, given to a machine as its own settings; nothing of it is committed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from repro.fetching.apt_client import apt_client

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_AUTHORITIES = Path("/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Site:
    """This machine's settings.

    Attributes:
        addresses: lines of /etc/hosts that name other machines.
        authorities: certificate files that an administrator added.
        proxies: NAME=VALUE, as in the environment.
        mirror: where Debian's packages come from: the first that this machine's own apt reads.
    """

    addresses: tuple[str, ...] = ()
    authorities: tuple[Path, ...] = ()
    proxies: tuple[str, ...] = ()
    mirror: str = ""

    def apply(self, root: Path) -> None:
        """Write them into the tree of a machine, where its own administrator would."""
        with open(root / "etc/hosts", "a", encoding="utf-8") as stream:
            stream.write("127.0.0.1 localhost host\n" + "".join(f"{line}\n" for line in self.addresses))
        with open(root / "etc/environment", "a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in self.proxies))
        for path in self.authorities:
            (root / "usr/local/share/ca-certificates" / path.name).write_bytes(path.read_bytes())
        if self.authorities:  # pip brings authorities of its own
            (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")


def other_machines(text: str) -> tuple[str, ...]:
    """The lines of an /etc/hosts that are not about the machine itself."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return tuple(
        " ".join(words) for words in lines if len(words) > 1 and not words[0].startswith(("127.", "::1", "fe00", "ff0"))
    )


def of_this_machine() -> Site:
    """As it is set up now."""
    hosts = Path("/etc/hosts")
    proxies = ((name, os.environ.get(name) or os.environ.get(name.upper())) for name in _PROXIES)
    return Site(
        other_machines(hosts.read_text("utf-8")) if hosts.is_file() else (),
        tuple(sorted(_AUTHORITIES.glob("*.crt"))),
        tuple(f"{name}={value}" for name, value in proxies if value),
        next(iter(apt_client().mirrors), ""),
    )
