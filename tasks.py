"""The commands. Each is a few lines that call repro/; `invoke --help TASK` explains its options.

A command imports what it runs when it runs: else listing and help would wait for clients of engines and registries.
"""

from __future__ import annotations

import sys

from repro.cli import options
from repro.cli.audits import add_audits
from repro.cli.bundles import add_bundles
from repro.cli.hosts import add_hosts
from repro.cli.stages import add_stages
from repro.cli.tasking import Commands, Here, exit_with_verdict, show

_commands = Commands()
command = _commands.command


@command("reproduce", options.Reproduce)
def reproduce(asked: options.Reproduce, here: Here) -> None:
    """Run everything, from speech to verdict and report.

    What is stored already is not run again. The record and the reports are written into artifacts/runs/latest.
    """
    if asked.plan:
        from repro.run.plan import plan

        show("\n".join(plan(asked.parsed(), here.paths, here.console)))
        return
    from repro.report import terminal_summary
    from repro.run import reproduce as running

    record = running.reproduce(asked.parsed(), here.paths, here.console)
    show(terminal_summary(record))
    show(f"report: {here.paths.told(here.paths.runs / 'latest' / 'report.html')} (also report.md, record.json)")
    exit_with_verdict(record.verdict.outcome)


@command("sweep", options.Sweep)
def sweep(asked: options.Sweep, here: Here) -> None:
    """Run a matrix of requests; write one page of it.

    Equal steps run once. A cell that fails is named and does not stop the others; the same command goes on from there.
    """
    from repro.sweep import command as sweeping

    if asked.plan:
        show("\n".join(sweeping.plan(here.paths, here.console, asked.parsed())))
        return
    exit_with_verdict(sweeping.outcome(sweeping.sweep(here.paths, here.console, asked.parsed(), show)))


@command("export.jobs", options.ExportJobs)
def export_jobs(asked: options.ExportJobs, here: Here) -> None:
    """Write the steps of a run as manifests for Volcano.

    Each step is a job on Kubernetes. No cluster ran them yet: tests hold them to the schemas alone.
    """
    from repro.run.export_jobs import export

    for line in export(asked.asked(), here.paths, here.console):
        show(line)


@command("doctor", options.Doctor)
def doctor(asked: options.Doctor, here: Here) -> None:
    """Say what this machine has and lacks, and what to do.

    Looks at the machine, its engines, data, checkpoint, sources and disk space: ok, missing or deviates.
    """
    from repro.cli.doctor_cluster import examine_on

    show(examine_on(here.paths, asked.engine, asked.on))


@command("toolchain", options.Engine)
def toolchain(asked: options.Engine, here: Here) -> None:
    """Show the compatibility table: required, found.

    Each component with its status and the probe that told it, run in every image that is built here; driver, firmware
    and chip are this host's.
    """
    from repro.run.compatibility import compatibility_table

    show(compatibility_table(here.paths, here.console, asked.engine))


@command("accept-cann-licence", options.NoOptions)
def accept_cann_licence(_: options.NoOptions, here: Here) -> None:
    """Record that you accept CANN's licence.

    It is written into data/user.lock.json. Without it nothing of CANN is installed.
    """
    from repro.base import user_lock

    user_lock.accept(here.paths, "CANN")
    show(f"accepted, and recorded in data/user.lock.json: {user_lock.LICENCES['CANN']}")


@command("fetch", options.Fetch)
def fetch(asked: options.Fetch, here: Here) -> None:
    """Fetch and verify what the images need (network)."""
    from repro.images.commands import fetch_for_images

    if asked.sources:
        from repro.fetching.archives import fetch_archives

        fetch_archives(here.paths, asked.sources.split(","), here.console.say)
    fetch_for_images(here.paths, asked.arch, here.console.say)


@command("images.list", options.Arch, default=True)
def images_list(asked: options.Arch, here: Here) -> None:
    """Show images: layers, sizes, IDs, origins."""
    from repro.images.commands import describe_images

    show(describe_images(here.paths, asked.arch))


@command("images.build", options.Arch)
def images_build(asked: options.Arch, here: Here) -> None:
    """Build all images from fetched files, offline.

    They are written into artifacts/oci, an OCI layout that also holds manifest.json.
    """
    from repro.images.commands import build_all
    from repro.run.engine_choice import compiling_engine

    build_all(here.paths, asked.arch, here.console.say, compiling_engine(here.paths))


@command("images.pin", options.NoOptions)
def images_pin(_: options.NoOptions, here: Here) -> None:
    """Build both architectures and write down their IDs.

    conf/locks/images.json then says what every later build must come out as.
    """
    from repro.images.commands import pin_all
    from repro.run.engine_choice import compiling_engine

    show(pin_all(here.paths, here.console.say, compiling_engine(here.paths)))


@command("images.save", options.ImagesSave)
def images_save(asked: options.ImagesSave, here: Here) -> None:
    """Write all images as one archive file.

    It holds one architecture, and docker load, podman load and skopeo read it.
    """
    from repro.base.paths import given_path
    from repro.images.commands import save_all
    from repro.run.engine_choice import compiling_engine

    save_all(here.paths, asked.arch, given_path("--to", asked.to), here.console.say, compiling_engine(here.paths))


@command("lock.write", options.LockWrite, default=True)
def lock_write(asked: options.LockWrite, here: Here) -> None:
    """Resolve conf/intents into locks (network, apt)."""
    from repro.resolving.write import write_locks

    write_locks(here.paths.root, [name for name in asked.sets.split(",") if name], here.console.say)


@command("lock.verify", options.NoOptions)
def lock_verify(_: options.NoOptions, here: Here) -> None:
    """Prove every .deb's hash by Debian's own key.

    The chain: key, signed InRelease, package index, lock.
    """
    from repro.resolving.prove import verify_chain

    verify_chain(here.paths.root, here.console.say)


@command("store.gc", options.NoOptions)
def store_gc(_: options.NoOptions, here: Here) -> None:
    """Remove stored results that no run refers to."""
    from repro.run.garbage import collect_garbage

    collect_garbage(here.paths, here.console.say)


@command("images.gc", options.NoOptions)
def images_gc(_: options.NoOptions, here: Here) -> None:
    """Remove layers and unpacked images that no image needs."""
    from repro.run.garbage import collect_images

    collect_images(here.paths, here.console.say)


@command("demo.train", options.DemoTrain)
def demo_train(asked: options.DemoTrain, here: Here) -> None:
    """Train the demo checkpoint anew (half an hour or more).

    Runs in its container, and goes on where it was killed.
    """
    from repro.run.demo_training import train

    train(here.paths, here.console, asked.engine, asked.epochs)


@command("explore", options.Explore)
def explore(asked: options.Explore, here: Here) -> None:
    """Write a page to see and hear each utterance."""
    from repro.explore.commands import explore as write

    show(here.paths.told(write(here.paths, asked.parsed())))


@command("test", options.Test)
def test(asked: options.Test, here: Here) -> None:
    """Check style and types, run unit and integration tests.

    The stages are also held to Python 3.7. Exit code 3 when anything fails.
    """
    from repro.cli.checks import run_tests

    run_tests(here.paths.root, unit_only=asked.unit, full=asked.full, expression=asked.keep)


@command("mutants", options.Mutants)
def mutants(asked: options.Mutants, here: Here) -> None:
    """Change conditions of the core; see which tests notice.

    Minutes for what you changed (--changed main), hours for everything. Exit code 3 where a mutant survives unargued.
    """
    from repro.cli.mutants import Extent, mutate

    extent = Extent.asked(here.paths.root, asked.changed, asked.sample, asked.seed)
    mutate(here.paths, [name for name in asked.only.split(",") if name], extent, here.console.say)


@command("support.bundle", options.SupportBundle)
def support_bundle(asked: options.SupportBundle, here: Here) -> None:
    """Write one archive to send when something fails.

    Versions, doctor's report, npu-smi's, logs and record, without names, paths, addresses, serials, keys, TIMIT's text.
    """
    from repro.cli import doctor, support

    around = support.Surroundings(doctor=lambda: doctor.examine(here.paths))
    show(support.make_bundle(here.paths, asked.to, asked.data, around))


@command("bench", options.Bench)
def bench(asked: options.Bench, here: Here) -> None:
    """Measure speed, as ratios within one run.

    Writes a table, JSON, plots, and a line of history. It ends with 0 whether bounds are met or not: a speed is a fact.
    """
    from repro.bench.page import summary
    from repro.bench.run import run_bench

    document, folder = run_bench(here.paths, here.console.say, full=asked.full, only=asked.only, to=asked.to)
    show(f"{summary(document)}\nbench: {folder}/bench.html (also bench.md, bench.json)")


add_audits(_commands)
add_bundles(_commands)
add_hosts(_commands)
add_stages(_commands)
ns = _commands.root

if __name__ == "__main__":
    from repro.cli.main import main

    sys.exit(main())
