"""`invoke hosts.list` and `invoke hosts.run NAME`: a scenario of users on a machine that is not ours, end to end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.pace import VARIABLE
from repro.base.paths import Paths
from repro.base.temporary import clear_dead, temporary_folder
from repro.machine.facts import architecture
from tests import exact_list
from tests.hosts import disk as disks
from tests.hosts import model, results, scenarios
from tests.hosts.machine import Machine, Place, accelerator, started

Say = Callable[[str], None]
_PREPARE_LIMIT_S = 1800.0
_FACTS = """
. /etc/os-release; echo "system=$PRETTY_NAME"; echo "kernel=$(uname -r)"; echo "pages=$(getconf PAGE_SIZE)"
echo "Python=$(python3 -c 'import platform; print(platform.python_version())')"
echo "processor=$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ *//')"
echo "control groups=$(stat -f -c %T /sys/fs/cgroup | sed 's/cgroup2fs/v2/; s/tmpfs/v1/')"
echo "SELinux=$(cat /sys/fs/selinux/enforce 2>/dev/null | sed 's/1/enforcing/; s/0/permissive/')"
echo "Docker=$(docker version --format '{{.Server.Version}}' 2>/dev/null)"
echo "Podman=$(podman --version 2>/dev/null | cut -d' ' -f3)"
echo "bubblewrap=$(bwrap --version 2>/dev/null | cut -d' ' -f2)"
"""


def list_hosts(root: Path) -> str:
    """Every host with what it adds, and its scenarios with their last outcomes."""
    lines = []
    for name in model.names():
        host, path = model.load(name), root / results.FOLDER / f"{name}.json"
        done = {each.name: each.outcome for each in results.load(path).scenarios} if path.is_file() else {}
        lines.append(f"{name}: {host.title}; {host.shows}")
        lines += [f"    {each.name}: {done.get(each.name, results.NOT_RUN)}" for each in host.scenario]
    return "\n".join(lines)


def run_host(paths: Paths, name: str, only: str, say: Say) -> None:
    """Run a host's scenarios, and write docs/verified/NAME.json and the page anew.

    Args:
        paths: of the checkout; its HEAD is what runs, without changes that are not committed.
        name: the host's.
        only: names of scenarios, separated by commas; '' for all that the host has.
        say: told of each step.

    Raises:
        UsageError: no such host or scenario.
        CouldNotRun: the machine could not be made or started.
        VerificationFailed: a scenario did not end as it must.
    """
    host = model.load(name)
    chosen = chosen_scenarios(host, only)
    listed = {step: each["digest"] for step, each in exact_list.listed()["golden"].items()}
    folder = paths.artifacts / "hosts"
    logs = folder / "logs" / name
    logs.mkdir(parents=True, exist_ok=True)
    for each in ("disks", "machines"):  # of runs that were killed: each machine holds gigabytes
        clear_dead(folder / each)
    say(f"disk of {host.title}")
    disk = disks.make(host, folder)
    accel = accelerator(host.arch, disk.kernel)
    with temporary_folder(folder / "machines", "machine") as work:
        carried = work / "carried"
        commit, signer = _carry(paths, host, carried, {each.name for each in chosen}, say)
        for network in (True, False):
            wanted = [each for each in chosen if (each.name == "readme") == network]
            if not wanted:
                continue
            place = Place(work, carried, logs / f"console-{'network' if network else 'alone'}.log", folder / "key")
            say(f"starting ({accel}, {'with' if network else 'without'} a network device)")
            with started(host, disk, place, accel, network=network) as machine:
                _prepare(machine, host, logs)
                facts = _facts(machine, logs)
                for scenario in wanted:
                    done = _one(machine, scenario, listed, logs, (commit, signer), pace=1 if accel == "kvm" else 10)
                    say(f"{scenario.name}: {done.outcome} in {done.minutes:.1f} minutes")
                    results.save(paths.root, results.Result(name, _machine(host, accel), facts, (done,)))
                    results.write_page(paths.root)
                    if done.outcome == "failed":
                        raise VerificationFailed(f"{name}: {scenario.name} failed", detail=done.why,
                                                 hint=f"its output: {logs / scenario.name}.log")  # fmt: skip


def chosen_scenarios(host: model.Host, only: str) -> list[model.Scenario]:
    """Those that are asked for, in the host's order; UsageError for a name that it does not have."""
    known = {each.name: each for each in host.scenario}
    asked = only.split(",") if only else list(known)
    if unknown := [each for each in asked if each not in known]:
        raise UsageError(f"{host.title} has no scenario {unknown[0]!r}", hint=", ".join(known))
    return [each for name, each in known.items() if name in asked]


def _machine(host: model.Host, accel: str) -> str:
    how = "KVM" if accel == "kvm" else f"emulated by QEMU as {host.processor}"
    return f"{host.arch}, {host.cores} cores, {host.memory_mib / 1024:.0f} GiB, {how}"


def _prepare(machine: Machine, host: model.Host, logs: Path) -> None:
    if host.start:
        answer = machine.run(f"set -eu\n{host.start}", logs / "start.log", _PREPARE_LIMIT_S, user="root")
        if answer.code:
            raise CouldNotRun(f"{host.title} could not be prepared", detail=answer.text()[-2000:])


def _facts(machine: Machine, logs: Path) -> dict[str, str]:
    log = logs / "facts.log"
    log.unlink(missing_ok=True)
    lines = machine.run(_FACTS, log, 300).text().splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.strip() for name, _, value in pairs if value.strip()}


def _one(
    machine: Machine, scenario: model.Scenario, listed: dict[str, str], logs: Path, carried: tuple[str, str], pace: int
) -> results.Done:
    """Run one scenario to its end, and judge it; `pace`: what time limits are multiplied with."""
    commit, signer = carried
    log = logs / f"{scenario.name}.log"
    log.unlink(missing_ok=True)
    start = time.monotonic()
    env = {VARIABLE: str(pace)}
    answer = machine.run(scenarios.script(scenario, signer), log, scenario.minutes * 60, env=env)
    minutes = (time.monotonic() - start) / 60
    for each in scenarios.BROUGHT:
        machine.fetch(each, logs / each)
    found: dict[str, str] = {}
    if answer.code == 0 and scenario.name != "verify":
        if (logs / "results.tar").is_file():
            found = results.exact_digests((logs / "results.tar").read_bytes())
        if not found:
            raise CouldNotRun(f"{scenario.name} ended well, but no results came back", hint=f"its output: {log}")
    exact, unequal = results.held_to(listed, found)
    outcome = judge(scenario, answer.code, answer.text(), unequal)
    why = "" if outcome == "passed" else scenario.refused if outcome != "failed" else _tail(answer.text())
    return results.Done(
        name=scenario.name, until=scenario.until, outcome=outcome, command=scenarios.command(scenario),
        engine=scenario.engine, commit=commit, day=time.strftime("%Y-%m-%d", time.gmtime()), minutes=round(minutes, 1),
        exact=exact, unequal=unequal, why=why,
    )  # fmt: skip


def judge(scenario: model.Scenario, code: int, said: str, unequal: tuple[str, ...]) -> results.Outcome:
    """Passed: ended with 0, every exact digest as listed. Where the product must refuse: it did, in these words."""
    if scenario.refused:
        return "refused, as it must be" if code not in (0, 70) and scenario.refused in said else "failed"
    return "passed" if code == 0 and not unequal else "failed"


def _tail(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines()[-6:] if line.strip())[-400:]


def _carry(paths: Paths, host: model.Host, carried: Path, wanted: set[str], say: Say) -> tuple[str, str]:
    """Put what the machine is to see into `carried`; returns the commit, and who signed the bundle ('' for none)."""
    carried.mkdir()
    commit = _git(paths.root, "rev-parse", "HEAD").strip()
    if _git(paths.root, "status", "--porcelain").strip():
        say("what is not committed is not carried")
    _git(paths.root, "archive", "--output", str(carried / "checkout.tar"), commit)
    signer = ""
    if wanted & {"bundle", "verify"}:
        bundle, signer = _bundle(paths, host.arch, commit, say)
        os.link(bundle, carried / "bundle.tar")
    # After the bundle, for which the files of another architecture were fetched.
    if "readme" in wanted and (paths.artifacts / "cache").is_dir():
        shutil.copytree(paths.artifacts / "cache", carried / "cache", copy_function=_linked)
    return commit, signer


def _linked(source: str, target: str) -> str:
    os.link(source, target)
    return target


def _bundle(paths: Paths, arch: str, commit: str, say: Say) -> tuple[Path, str]:
    """A bundle of this commit with a run on golden's corpus that this machine made; and its signer's fingerprint."""
    folder = paths.artifacts / "hosts" / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    key, bundle = folder / "key.pem", folder / f"{arch}-{commit[:12]}.tar"
    if not key.is_file():
        _invoke(paths, "bundle.keys.make", "--to", str(key))
    if not bundle.is_file():
        for old in folder.glob(f"{arch}-*"):
            old.unlink()
        say("packing a bundle, with a run of this machine")
        # As many executions as make a speed valid, and this machine's images too: an audit then has all that it names.
        _invoke(paths, *scenarios.command(model.Scenario(name="readme"), loops=100).split()[1:])
        arches = ",".join(sorted({arch, architecture()}))
        _invoke(paths, "bundle.pack", "--arch", arches, "--run", "latest", "--run-detail", "full", "--key", str(key),
                "--to", str(bundle))  # fmt: skip
    shown = _invoke(paths, "bundle.keys.show", "--key", str(key))
    return bundle, next(word for word in shown.split() if len(word) == 64)


def _invoke(paths: Paths, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "tasks.py", *words], cwd=paths.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CouldNotRun(f"invoke {words[0]} failed on this machine", detail=(done.stdout + done.stderr)[-3000:])
    return done.stdout


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CouldNotRun(f"git {words[0]} failed: {done.stderr.strip()}", hint="hosts.run needs a git checkout")
    return done.stdout
