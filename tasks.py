"""The commands. Each is a few lines that call repro/; `invoke --help TASK` explains its options."""

from __future__ import annotations

import os
import sys

from invoke import Collection, task

from repro.cli.tasking import exit_with_verdict, help_for, reporting

for _name in [name for name in os.environ if name.startswith("INVOKE_")]:
    del os.environ[_name]  # settings of Invoke for other projects; a strange one would end a command

_RUN_OPTIONS = ("data", "checkpoint", "engine", "toolchain", "device", "devices", "precision",
                "precision-mode", "decode", "beam-width", "lm-alpha", "split", "loop", "skip-bad", "force",
                "offline")  # fmt: skip


_STAGES = {
    "batches": "Stack frames into the model's input files",
    "compare": "Compare PyTorch, ONNX and the converted model",
    "convert": "Make the graph for ONNX Runtime",
    "convert_npu": "Convert the graph with atc",
    "corpus": "List a corpus: utterances, labels, units, waves",
    "demo_corpus": "Make demo speech in TIMIT's layout",
    "export": "Check the checkpoint, export it to ONNX",
    "features": "Kaldi's filter banks, normalised",
    "infer": "Run the model over the batches",
    "infer_npu": "Run the batches on the NPU (ais_bench)",
    "lm": "Estimate the bigram that Beam uses",
    "measure": "Time pure inference",
    "measure_npu": "Time pure inference on the NPU",
    "reference": "Run the checkpoint in PyTorch",
    "score": "Decode and score by both protocols",
}


def _options(bs, force=False, engine="auto", toolchain="auto", offline=False, data="", checkpoint="", devices="",
             **request):  # fmt: skip
    from repro.graph.pipeline import Request, parse_batch_sizes
    from repro.run.options import Options
    from repro.run.target import parse_devices

    return Options(
        request=Request(batch_sizes=parse_batch_sizes(bs), **request),
        data_option=data,
        checkpoint_option=checkpoint,
        engine=engine,
        toolchain=toolchain,
        devices=parse_devices(devices),
        force=force,
        fetch=not offline,
    )


def _here():
    from repro.base.paths import Paths
    from repro.display.console import Console

    return Paths.of_checkout(), Console()


@task(help=help_for("bs", *_RUN_OPTIONS, "plan"), auto_shortflags=False)
@reporting
def reproduce(
    c, bs="8", data="", checkpoint="", engine="auto", toolchain="auto", device="cpu", devices="", precision="fp32",
    precision_mode="", decode="Greedy", beam_width=10, lm_alpha=0.1, split="dev", loop=100, skip_bad=False,
    force=False, offline=False, plan=False,
):  # fmt: skip
    """Run everything, from speech to verdict and report.

    What is stored already is not run again. The record and the reports are written into artifacts/runs/latest.
    """
    from repro.report import terminal_summary

    paths, console = _here()
    options = _options(
        bs, force, engine, toolchain, offline, data, checkpoint, devices, device=device, precision=precision,
        precision_mode=precision_mode, decode=decode, beam_width=beam_width, lm_alpha=lm_alpha, split=split, loop=loop,
        skip_bad=skip_bad,
    )  # fmt: skip
    if plan:
        from repro.run import plan as planning

        print("\n".join(planning.plan(options, paths, console)))
        return
    from repro.run import reproduce as running

    document = running.reproduce(options, paths, console)
    print(terminal_summary(document))
    print("report: artifacts/runs/latest/report.html (also report.md, record.json)")
    exit_with_verdict(document)


def _stage_task(name):
    @task(name=name.replace("_", "-"), help=help_for("bs", *_RUN_OPTIONS), auto_shortflags=False)
    @reporting
    def run_one(
        c, bs="8", data="", checkpoint="", engine="auto", toolchain="auto", device="cpu", devices="",
        precision="fp32", precision_mode="", decode="Greedy", beam_width=10, lm_alpha=0.1, split="dev", loop=100,
        skip_bad=False, force=False, offline=False,
    ):  # fmt: skip
        from repro.run.one_stage import run_stages

        paths, console = _here()
        options = _options(
            bs, force, engine, toolchain, offline, data, checkpoint, devices, device=device,
            precision=precision, precision_mode=precision_mode, decode=decode, beam_width=beam_width,
            lm_alpha=lm_alpha, split=split, loop=loop, skip_bad=skip_bad,
        )  # fmt: skip
        for folder in run_stages(options, name, paths, console):
            print(folder)

    run_one.__doc__ = (
        f"{_STAGES.get(name, 'Run stage ' + name)}.\n\nRuns stage {name} with all that it needs, as far as that is not "
        "stored; the last line (one a batch size) is its result folder."
    )
    return run_one


@task(help=help_for("engine"))
@reporting
def doctor(c, engine="auto"):
    """Say what this machine has and lacks, and what to do.

    Looks at the machine, its engines, data, checkpoint, sources and disk space: ok, missing or deviates.
    """
    from repro.cli.doctor import examine

    paths, _ = _here()
    print(examine(paths, engine))


@task(help=help_for("engine"))
@reporting
def toolchain(c, engine="auto"):
    """Show the compatibility table: required, found.

    Each component with its status and the probe that told it, run in every image that is built here; driver, firmware
    and chip are this host's.
    """
    from repro.run.compatibility import compatibility_table

    paths, console = _here()
    print(compatibility_table(paths, console, engine))


@task(name="accept-cann-licence")
@reporting
def accept_cann_licence(c):
    """Say that you accept the licence of CANN.

    Recorded in data/user.lock.json. Without it nothing of CANN is installed.
    """
    from repro.base import user_lock

    user_lock.accept(_here()[0], "CANN")
    print(f"accepted, and recorded in data/user.lock.json: {user_lock.LICENCES['CANN']}")


@task(help={"sources": "first these archives of conf/sources.toml, such as kaldi,cpython", **help_for("arch")})
@reporting
def fetch(c, arch="", sources=""):
    """Fetch and verify what the images need (network)."""
    from repro.images.commands import fetch_for_images

    paths, console = _here()
    if sources:
        from repro.fetching.archives import fetch_archives

        fetch_archives(paths, sources.split(","), console.say)
    fetch_for_images(paths, arch, console.say)


@task(help=help_for("arch"), default=True)
@reporting
def images_list(c, arch=""):
    """Show images: layers, sizes, IDs, origins."""
    from repro.images.commands import describe_images

    print(describe_images(_here()[0], arch))


@task(help=help_for("arch"))
@reporting
def images_build(c, arch=""):
    """Build all images from fetched files, offline.

    They are written into artifacts/oci, an OCI layout that also holds manifest.json.
    """
    from repro.images.commands import build_all
    from repro.run.engine_choice import compiling_engine

    paths, console = _here()
    build_all(paths, arch, console.say, compiling_engine(paths))


@task
@reporting
def images_pin(c):
    """Build both architectures and write down their IDs.

    conf/locks/images.json then says what every later build must come out as.
    """
    from repro.images.commands import pin_all
    from repro.run.engine_choice import compiling_engine

    paths, console = _here()
    print(pin_all(paths, console.say, compiling_engine(paths)))


@task(help={"to": "the file to write", **help_for("arch")})
@reporting
def images_save(c, to, arch=""):
    """Write all images as one archive file.

    It holds one architecture, and docker load, podman load and skopeo read it.
    """
    from repro.base.paths import given_path
    from repro.images.commands import save_all
    from repro.run.engine_choice import compiling_engine

    paths, console = _here()
    save_all(paths, arch, given_path("--to", to), console.say, compiling_engine(paths))


@task(help={"sets": "names of sets, separated by commas; left out: all"}, default=True)
@reporting
def lock_write(c, sets=""):
    """Resolve conf/intents into locks (network, apt)."""
    from repro.resolving.write import write_locks

    paths, console = _here()
    write_locks(paths.root, [name for name in sets.split(",") if name], console.say)


@task
@reporting
def lock_verify(c):
    """Prove every .deb's hash by Debian's own key.

    The chain: key, signed InRelease, package index, lock.
    """
    from repro.resolving.prove import verify_chain

    paths, console = _here()
    verify_chain(paths.root, console.say)


@task
@reporting
def store_gc(c):
    """Remove stored results that no run refers to."""
    from repro.run.garbage import collect_garbage

    paths, console = _here()
    collect_garbage(paths, console.say)


@task(help={"epochs": "how often the training goes through the corpus", **help_for("engine")})
@reporting
def demo_train(c, epochs=0, engine="auto"):
    """Train the demo checkpoint anew (half an hour or more).

    Runs in its container, and goes on where it was killed.
    """
    from repro.run.demo_training import train

    paths, console = _here()
    train(paths, console, engine, epochs)


_AUDIT = {
    "subject": "a run's folder (it holds record.json), or the word latest",
    "verified": "a run's folder, the word latest, a bundle's file, or a folder that was installed from one",
    "key": "fingerprint of the key that must have signed a bundle; left out: the keys trusted on this machine",
    "to": "folder for the page: audit.html, audit.md, audit.json; left out: one in artifacts/audits",
    "rounds": "timed rounds of the speed checks, 10 or more (30)",
    "images": "names, separated by commas; left out: the record's, or all that are always made",
    "first": "a run's folder",
    "second": "another run's, such as one that came from another machine",
}


@task(help={"subject": _AUDIT["verified"], **help_for("data", "checkpoint"), "key": _AUDIT["key"],
            "to": _AUDIT["to"]}, auto_shortflags=False)  # fmt: skip
@reporting
def audit_verify(c, subject, data="", checkpoint="", key="", to=""):
    """Prove or refute a run from its bytes.

    Every digest, image and figure is recomputed; nothing is run, and nothing that the record says is believed.
    """
    from repro.audit import commands

    commands.verify(_here()[0], subject, data, checkpoint, key, to, print)


@task(help={**{name: _AUDIT[name] for name in ("subject", "rounds", "to")},
            **help_for("data", "checkpoint", "engine", "offline")}, auto_shortflags=False)  # fmt: skip
@reporting
def audit_rerun(c, subject, data="", checkpoint="", engine="auto", offline=False, rounds=30, to=""):
    """Run it all again, compare every output.

    Also checks that its speeds are honest: what is timed is what is scored, nothing is cached, no work is skipped.
    """
    from repro.audit import commands

    paths, console = _here()
    commands.rerun(paths, console, subject, data, checkpoint, engine, offline, rounds, to, print)


@task(help={"run": "also hold the digests to this run's record", "images": _AUDIT["images"],
            **help_for("arch", "offline"), "to": _AUDIT["to"]}, auto_shortflags=False)  # fmt: skip
@reporting
def audit_challenge(c, run="", images="", arch="", offline=False, to=""):
    """Build every layer again and compare digests.

    From locked sources, into an empty folder; Debian's signatures are verified down to its key.
    """
    from repro.audit import commands

    paths, console = _here()
    commands.challenge(paths, run, arch, images, offline, to, console.say)


@task(help={name: _AUDIT[name] for name in ("first", "second", "to")}, auto_shortflags=False)
@reporting
def audit_compare(c, first, second, to=""):
    """Compare two runs, output by output."""
    from repro.audit import commands

    commands.compare(_here()[0], first, second, to, print)


@task(
    help={
        "unit": "only the fast tests, without images or engines",
        "keep": "pytest's -k expression: only the tests whose names match",
    }
)
@reporting
def test(c, unit=False, keep=""):
    """Check style and types, run unit and integration tests.

    The stages are also held to Python 3.7. Exit code 1 when anything fails.
    """
    from repro.cli.checks import run_tests

    run_tests(_here()[0].root, unit_only=unit, expression=keep)


@task(
    help={
        "to": "the file to write, NAME.tar (artifacts/bundles/… by default)",
        "with-sources": "add every locked file, so that the images can be rebuilt",
        "run": "add a run: latest, or a name in artifacts/runs",
        "run-detail": "how much of that run: full, scores or none (full for the demo's, else to be chosen)",
        "include": "licensed things, only ever by name: checkpoint, cann (with a comma between)",
        "since": "an earlier bundle: leave out what it carries",
        "part-size": "cut into parts of this size, such as 4GB",
        "key": "the private key's file (made by bundle.keys.make; by default this user's)",
        "unsigned": "pack without a signature: nothing will call it verified",
        **help_for("arch", "offline"),
    },
    auto_shortflags=False,
)
@reporting
def bundle_pack(
    c, to="", arch="", with_sources=False, run="", run_detail="", include="", since="", part_size="", key="",
    unsigned=False, offline=False,
):  # fmt: skip
    """Pack everything into one signed file.

    Repository, images, wheels, locks and demo; never TIMIT. It is installed by the install.py that it holds.
    """
    from repro.packing.commands import pack_bundle

    paths, console = _here()
    files = pack_bundle(
        paths, console.say, to=to, arch=arch, with_sources=with_sources, run=run, run_detail=run_detail,
        include=include, since=since, part_size=part_size, key=key, unsigned=unsigned, offline=offline,
    )  # fmt: skip
    for path in files:
        print(path)


@task(
    help={
        "path": "the bundle's file, or the first of its parts, or a folder installed from one",
        "key": "accept this signer's key alone (its fingerprint)",
        "first-use": "trust the signer from now on, where no key is trusted here yet",
    },
    positional=["path"],
    auto_shortflags=False,
)
@reporting
def bundle_verify(c, path, key="", first_use=False):
    """Verify a bundle: who signed it, and every byte."""
    from repro.packing.commands import verify_and_describe

    print(verify_and_describe(path, key, first_use))


@task(help={"to": "the private key's file to write"})
@reporting
def keys_make(c, to=""):
    """Make a signing key for this user.

    It is encrypted where BUNDLE_KEY_PASSPHRASE holds a passphrase.
    """
    from repro.packing.commands import make_signing_key

    print(make_signing_key(to))


@task(help={"key": "the private key's file (by default this user's)"})
@reporting
def keys_show(c, key=""):
    """Show this user's key and the trusted ones."""
    from repro.packing.commands import show_keys

    print(show_keys(key))


@task(help={"fingerprint": "of the key, learnt from its owner"}, positional=["fingerprint"])
@reporting
def keys_trust(c, fingerprint):
    """Trust a signer's key on this machine."""
    from repro.packing import trust_key

    print(f"trusted, in {trust_key(fingerprint)}")


@task(help={"full": "every batch size, more rounds, and the long areas (half an hour); left out: about two minutes",
            "only": "areas, separated by commas", "to": "folder for the results (artifacts/bench/latest)"},
      auto_shortflags=False)  # fmt: skip
@reporting
def bench(c, full=False, only="", to=""):
    """Measure speed, as ratios within one run.

    Writes a table, JSON, plots, and a line of history. It ends with 0 whether bounds are met or not: a speed is a fact.
    """
    from repro.bench.page import summary
    from repro.bench.run import run_bench

    paths, console = _here()
    document, folder = run_bench(paths, console.say, full=full, only=only, to=to)
    print(f"{summary(document)}\nbench: {folder}/bench.html (also bench.md, bench.json)")


def _bundle_namespace():
    keys = Collection("keys")
    keys.add_task(keys_make, "make")
    keys.add_task(keys_show, "show")
    keys.add_task(keys_trust, "trust")
    bundle = Collection("bundle", keys)
    bundle.add_task(bundle_pack, "pack")
    bundle.add_task(bundle_verify, "verify")
    return bundle


def _audit_namespace():
    audit = Collection("audit")
    audit.add_task(audit_verify, "verify")
    audit.add_task(audit_rerun, "rerun")
    audit.add_task(audit_challenge, "challenge")
    audit.add_task(audit_compare, "compare")
    return audit


def _namespace():
    from repro.graph.pipeline import STAGES

    images = Collection("images")
    images.add_task(images_list, "list")
    images.add_task(images_build, "build")
    images.add_task(images_pin, "pin")
    images.add_task(images_save, "save")
    lock = Collection("lock")
    lock.add_task(lock_write, "write")
    lock.add_task(lock_verify, "verify")
    store = Collection("store")
    store.add_task(store_gc, "gc")
    demo = Collection("demo")
    demo.add_task(demo_train, "train")
    stage = Collection("stage")
    for name in sorted(STAGES):
        if name != "demo_train":
            stage.add_task(_stage_task(name))
    return Collection(reproduce, doctor, toolchain, accept_cann_licence, fetch, test, bench, images, lock, store, demo,
                      stage, _bundle_namespace(), _audit_namespace())  # fmt: skip


ns = _namespace()

if __name__ == "__main__":
    from repro.cli.main import main

    sys.exit(main())
