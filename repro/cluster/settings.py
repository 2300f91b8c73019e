"""What this site says of its Slurm cluster: [slurm] in conf/site.toml, and over it SLURM_* of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from repro.base.errors import UsageError
from repro.base.toml import read_toml

SECTION = "slurm"
FROM_ENVIRONMENT = ("partition", "account", "qos", "constraint", "shared", "local", "measure_on")
_HINT = "see [slurm] in conf/site.example.toml"


@dataclass(frozen=True)
class Settings:
    """What conf/site.toml says in [slurm].

    Attributes:
        partition, account, qos, constraint: as sbatch's options; '' leaves them to Slurm.
        gres: the name of the NPUs among Slurm's generic resources.
        shared: a folder that this host and every node see under the same path, with checkout and results below it.
        local: a folder on each node's own disk, made by this program: unpacked images and remembered digests.
        carried: no folder is shared: files go by digest through this host, over `srun`.
        python: with `carried`, the Python on the nodes; its version is that of this host's.
        measure_on: the node that speeds are measured on; '' for the first of the partition that is up.
        minutes: the longest a job may ask for; 0 for the partition's limit.
        most_jobs: how many jobs of one run Slurm holds at a time.
        names: record the name of the node that made a result beside its facts.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = "npu"
    shared: str = ""
    local: str = "/var/tmp/lstm-ctc-bundle"  # noqa: S108 - held to be this user's own before it is used
    carried: bool = False
    python: str = "python3"
    measure_on: str = ""
    minutes: int = 0
    most_jobs: int = 200
    names: bool = False

    def options(self) -> list[str]:
        """Options of sbatch and srun that choose where jobs may run."""
        found = {"partition": self.partition, "account": self.account, "qos": self.qos, "constraint": self.constraint}
        return [f"--{name}={value}" for name, value in found.items() if value]


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read a site file's [slurm]; the environment's SLURM_PARTITION and its like count more.

    Raises:
        UsageError: it says something that this section cannot say.
    """
    table = read_toml(path).get(SECTION, {}) if path.exists() else {}
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {SECTION} must be a table", hint=_HINT)
    kinds = {item.name: type(item.default) for item in fields(Settings)}
    for name, value in table.items():
        _check(path, name, value, kinds)
    given = {name: environ.get(f"SLURM_{name.upper()}", "") for name in FROM_ENVIRONMENT}
    settings = replace(Settings(**table), **{name: value for name, value in given.items() if value})
    if settings.most_jobs < 1 or settings.minutes < 0:
        raise UsageError(f"{path}: most_jobs must be 1 or more, minutes 0 or more", hint=_HINT)
    if settings.carried and settings.shared:
        raise UsageError(f"{path}: either `shared` names a folder, or `carried` is true", hint=_HINT)
    if not Path(settings.local).is_absolute():
        raise UsageError(f"{path}: local must be an absolute path", hint=_HINT)
    return settings


def _check(path: Path, name: str, value: Any, kinds: Mapping[str, type]) -> None:
    if name not in kinds:
        raise UsageError(f"{path}: unknown {name!r} in [{SECTION}]", hint=_HINT)
    if type(value) is not kinds[name]:
        words = {str: "a text", bool: "true or false", int: "a whole number"}
        raise UsageError(f"{path}: {name} in [{SECTION}] must be {words[kinds[name]]}", hint=_HINT)
