"""The commands. Each is a few lines that call bundle/; `invoke --help TASK` explains its options."""

from __future__ import annotations

from invoke import Collection, task

from bundle.tasking import exit_with_verdict, help_for, reporting

_RUN_OPTIONS = ("data", "checkpoint", "engine", "toolchain", "device", "decode", "beam-width", "lm-alpha", "split",
                "loop", "skip-bad", "force", "offline")  # fmt: skip


_STAGES = {
    "batches": "Stack frames into the model's input files",
    "compare": "Compare PyTorch, ONNX and the converted model",
    "convert": "Make the graph for ONNX Runtime",
    "corpus": "List a corpus: utterances, labels, units, waves",
    "demo_corpus": "Make demo speech in TIMIT's layout",
    "export": "Check the checkpoint, export it to ONNX",
    "features": "Kaldi's filter banks, normalised",
    "infer": "Run the model over the batches",
    "lm": "Estimate the bigram that Beam uses",
    "measure": "Time pure inference",
    "reference": "Run the checkpoint in PyTorch",
    "score": "Decode and score by both protocols",
}


def _options(bs, force=False, engine="auto", toolchain="auto", offline=False, data="", checkpoint="", **request):
    from bundle.graph.pipeline import Request, parse_batch_sizes
    from bundle.reproduce import Options

    return Options(
        request=Request(batch_sizes=parse_batch_sizes(bs), **request),
        data_option=data,
        checkpoint_option=checkpoint,
        engine=engine,
        toolchain=toolchain,
        force=force,
        fetch=not offline,
    )


def _here():
    from bundle.console import Console
    from bundle.paths import Paths

    return Paths.of_checkout(), Console()


@task(help=help_for("bs", *_RUN_OPTIONS, "plan"), auto_shortflags=False)
@reporting
def reproduce(
    c, bs="8", data="", checkpoint="", engine="auto", toolchain="auto", device="cpu", decode="Greedy", beam_width=10,
    lm_alpha=0.1, split="dev", loop=100, skip_bad=False, force=False, offline=False, plan=False,
):  # fmt: skip
    """Run everything, from speech to verdict and report.

    What is stored already is not run again. The record and the reports are written into artifacts/runs/latest.
    """
    from bundle import reproduce as run
    from bundle.report import terminal_summary

    paths, console = _here()
    options = _options(
        bs, force, engine, toolchain, offline, data, checkpoint, device=device, decode=decode, beam_width=beam_width,
        lm_alpha=lm_alpha, split=split, loop=loop, skip_bad=skip_bad,
    )  # fmt: skip
    if plan:
        print("\n".join(run.plan(options, paths, console)))
        return
    document = run.reproduce(options, paths, console)
    print(terminal_summary(document))
    print("report: artifacts/runs/latest/report.html (also report.md, record.json)")
    exit_with_verdict(document)


def _stage_task(name):
    @task(name=name.replace("_", "-"), help=help_for("bs", *_RUN_OPTIONS), auto_shortflags=False)
    @reporting
    def run_one(
        c, bs="8", data="", checkpoint="", engine="auto", toolchain="auto", device="cpu", decode="Greedy",
        beam_width=10, lm_alpha=0.1, split="dev", loop=100, skip_bad=False, force=False, offline=False,
    ):  # fmt: skip
        from bundle.reproduce import run_stages

        paths, console = _here()
        options = _options(
            bs, force, engine, toolchain, offline, data, checkpoint, device=device, decode=decode,
            beam_width=beam_width, lm_alpha=lm_alpha, split=split, loop=loop, skip_bad=skip_bad,
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
    from bundle.doctor import examine

    paths, _ = _here()
    print(examine(paths, engine))


@task(help=help_for("arch"))
@reporting
def fetch(c, arch=""):
    """Fetch and verify what the images need (network)."""
    from bundle.images.commands import fetch_for_images

    paths, console = _here()
    fetch_for_images(paths, arch, console.say)


@task(help=help_for("arch"), default=True)
@reporting
def images_list(c, arch=""):
    """Show images: layers, sizes, IDs, origins."""
    from bundle.images.commands import describe_images

    print(describe_images(_here()[0], arch))


@task(help=help_for("arch"))
@reporting
def images_build(c, arch=""):
    """Build all images from fetched files, offline.

    They are written into artifacts/oci, an OCI layout that also holds manifest.json.
    """
    from bundle.images.commands import build_all

    paths, console = _here()
    build_all(paths, arch, console.say)


@task
@reporting
def images_pin(c):
    """Build both architectures and write down their IDs.

    conf/locks/images.json then says what every later build must come out as.
    """
    from bundle.images.commands import pin_all

    paths, console = _here()
    print(pin_all(paths, console.say))


@task(help={"to": "the file to write", **help_for("arch")})
@reporting
def images_save(c, to, arch=""):
    """Write all images as one archive file.

    It holds one architecture, and docker load, podman load and skopeo read it.
    """
    from pathlib import Path

    from bundle.images.commands import save_all

    paths, console = _here()
    save_all(paths, arch, Path(to), console.say)


@task(help={"sets": "names of sets, separated by commas; left out: all"}, default=True)
@reporting
def lock_write(c, sets=""):
    """Resolve conf/intents into locks (network, apt)."""
    from bundle.locks import write_locks

    paths, console = _here()
    write_locks(paths.root, [name for name in sets.split(",") if name], console.say)


@task
@reporting
def lock_verify(c):
    """Prove every .deb's hash by Debian's own key.

    The chain: key, signed InRelease, package index, lock.
    """
    from bundle.locks import verify_chain

    paths, console = _here()
    verify_chain(paths.root, console.say)


@task
@reporting
def store_gc(c):
    """Remove stored results that no run refers to."""
    from bundle.reproduce import collect_garbage

    paths, console = _here()
    collect_garbage(paths, console.say)


@task(help={"epochs": "how often the training goes through the corpus", **help_for("engine")})
@reporting
def demo_train(c, epochs=0, engine="auto"):
    """Train the demo checkpoint anew (half an hour or more).

    Runs in its container, and goes on where it was killed.
    """
    from bundle.demo import train

    paths, console = _here()
    train(paths, console, engine, epochs)


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
    from bundle.checks import run_tests

    run_tests(_here()[0].root, unit_only=unit, expression=keep)


def _namespace():
    from bundle.graph.pipeline import STAGES

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
    return Collection(reproduce, doctor, fetch, test, images, lock, store, demo, stage)


ns = _namespace()

if __name__ == "__main__":
    from bundle.main import main

    main()
