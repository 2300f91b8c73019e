"""Every option of every command, declared once: name, type, default, help, and by its class the commands that have it.

`repro.cli.tasking.command` makes Invoke's signature and help of these classes, and `Run.parsed` the request of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.cli.declaring import Options, argument, flag, of_request, option
from repro.graph.pipeline import Request, parse_batch_sizes

if TYPE_CHECKING:
    from repro.audit.commands import FarmAsked, Verify
    from repro.audit.rerun import Rerun
    from repro.explore.commands import Wanted
    from repro.packing.pack import Choices
    from repro.packing.verify import Rebuilders
    from repro.run.export_jobs import Asked as JobsAsked
    from repro.run.options import Options as RunOptions
    from repro.sweep.command import Asked


class NoOptions(Options):
    """A command without options."""


class Arch(Options):
    arch: str = option("", "amd64, arm64 or both, separated by a comma; left out: this machine's")


class Engine(Options):
    engine: str = option(
        "auto", "docker, podman, sandbox (embedded: no daemon, no root), or auto: the first of these that works here"
    )


class Doctor(Engine):
    on: str = option("local", "slurm: look at this site's cluster too, by a short job on each node")


class On(Options):
    on: str = option("local", "where stages run: local, or slurm: as jobs of this site's cluster (conf/site.toml)")


class Offline(Options):
    offline: bool = flag("use no network: what is not fetched is an error")


class Inputs(Options):
    data: str = option(
        "", "TIMIT's folder or data.zip, or the word demo; left out: data/data.zip, data/TIMIT, else the demo corpus"
    )
    checkpoint: str = option("", "the model's .pth file, or the word demo; left out: the one in data/, else the demo's")


class Run(Inputs, Engine, On, Offline):
    """`stage.NAME`, and all but one of the options of `reproduce`."""

    bs: str = option("8", "batch size: one number, a list (1,8,64), or all (1,4,8,16,32,64, the published table's)")
    toolchain: str = option(
        "auto",
        "pinned (the compatibility table to the letter, all or nothing), portable, or auto: every pinned image whose "
        "sources are in data/sources, the portable ones beside them; the report lists every deviation",
    )
    device: str = of_request(
        "what converts, infers and is timed: cpu, or npu (an Ascend 310P3, with CANN from data/sources)"
    )
    cann: str = option(
        "",
        "with --device npu: which CANN; left out: the published table's; host: what the host has in /usr/local/Ascend, "
        "mounted read-only; or a version (8.1.RC1) whose packages are in data/sources; never compared with the table",
    )
    devices: str = option("", "NPU device numbers (0 or 0,1) that share the batches; left out: the first idle chip")
    precision: str = of_request(
        "number format on the CPU: fp32, the model's own, or bf16: 2.5 times as fast or more with AMX, 1.6 times with "
        "AVX512-BF16, refused on other processors; shown in the report, and never compared with the table"
    )
    precision_mode: str = of_request(
        "atc's --precision_mode; left out: the vendor's default, as in the published table"
    )
    decode: str = of_request("Greedy (the published table's) or Beam")
    beam_width: int = of_request("hypotheses kept by Beam (10)")
    lm_alpha: float = of_request("NUMBER: weight of the bigram language model in Beam (0.1)")
    split: str = of_request("dev (the published table's) or test")
    loop: int = of_request("timed executions for throughput and latency (100, the published table's)")
    skip_bad: bool = of_request(
        "leave out utterances that cannot be used, listed and counted in the report, instead of stopping"
    )
    leave: bool = flag("with --on slurm: Ctrl-C leaves the jobs running; the same command picks them up")
    force: bool = flag("run again what is stored already; the result must come out the same")

    def parsed(self) -> RunOptions:
        """What `repro.run` takes."""
        from repro.run.options import Options as RunOptions  # noqa: PLC0415 - clients of engines
        from repro.run.target import parse_devices  # noqa: PLC0415 - clients of engines

        asked = {name: getattr(self, name) for name, item in self.DECLARED.items() if item.of_request}
        return RunOptions(
            request=Request(batch_sizes=parse_batch_sizes(self.bs), **asked),
            data_option=self.data,
            checkpoint_option=self.checkpoint,
            engine=self.engine,
            toolchain=self.toolchain,
            devices=parse_devices(self.devices),
            cann=self.cann,
            on=self.on,
            leave=self.leave,
            force=self.force,
            fetch=not self.offline,
        )


class Reproduce(Run):
    plan: bool = flag("list what would run and why, and run nothing")


class ExportJobs(Run):
    """Where the steps run is the other system's matter, so that `on`, `engine`, `leave` and `force` change nothing."""

    for_: str = option("volcano", "the system: volcano (on Kubernetes)")
    to: str = option("", "a new folder for the manifests and the stages' code (artifacts/jobs)")
    registry: str = option("registry.example/lstm-ctc", "where the images are pushed to")
    claim: str = option("lstm-ctc", "the PersistentVolumeClaim that holds code, inputs and results")
    measure_on: str = option("node1", "the node that speeds are measured on")
    cores: int = option(8, "the cores of a node")

    def asked(self) -> JobsAsked:
        """What `repro.run` takes."""
        from repro.cluster.volcano import Site  # noqa: PLC0415 - the graph
        from repro.run.export_jobs import Asked  # noqa: PLC0415 - clients of engines

        return Asked(self.parsed(), self.for_, self.to, Site(self.registry, self.claim, self.measure_on, self.cores))


class Sweep(Engine, On, Offline):
    file: str = argument("the sweep's file, in TOML, such as conf/sweep.example.toml")
    plan: bool = flag("list what would run, and what is stored, and run nothing")
    to: str = option("", "folder for the page (artifacts/sweeps/NAME of the file)")

    def parsed(self) -> Asked:
        """What `repro.sweep` takes."""
        from repro.sweep.command import Asked  # noqa: PLC0415 - clients of engines
        from repro.sweep.running import How  # noqa: PLC0415 - clients of engines

        return Asked(self.file, self.to, How(self.engine, not self.offline, self.on))


class Fetch(Arch):
    sources: str = option("", "first these archives of conf/sources.toml, such as kaldi,cpython")


class ImagesSave(Arch):
    to: str = argument("the file to write")


class LockWrite(Options):
    sets: str = option("", "names of sets, separated by commas; left out: all")


class DemoTrain(Engine):
    epochs: int = option(0, "how often the training goes through the corpus")


class Mutants(Options):
    only: str = option("", "areas of tests/mutants.toml, separated by commas; left out: all")
    changed: str = option("", "COMMIT: only functions that changed since then; left out: all")
    sample: int = option(0, "only N mutants per area, chosen by --seed; left out: all")
    seed: int = option(1, "of the sample: the same mutants as long as the code is the same")


class HostsRun(Options):
    name: str = argument("a host of tests/hosts (see hosts.list)")
    only: str = option("", "scenarios (readme, bundle, verify), separated by commas; left out: all that the host has")


class Test(Options):
    unit: bool = flag("only the fast tests, without images or engines")
    full: bool = flag("long tests in full: hours, and 10 GB; left out: their short forms")
    keep: str = option("", "pytest's -k expression: only the tests whose names match")


class Bench(Options):
    full: bool = flag(
        "every batch size, more rounds, and the long areas (half an hour or more); left out: some minutes"
    )
    only: str = option("", "areas, separated by commas")
    to: str = option("", "folder for the results (artifacts/bench/latest)")


class Sign(Options):
    """Every audit's outcome can be signed."""

    sign: str = option("", "the file of your private key: sign the outcome, whatever it is (see bundle.keys.make)")


class Page(Sign):
    """What every audit writes."""

    to: str = option("", "folder for the page: audit.html, audit.md, audit.json; left out: one in artifacts/audits")


class AuditInputs(Options):
    data: str = option("", "the data set of the run, if you have it: its digest is held to the record's")
    checkpoint: str = option("", "the run's .pth file, if you have it: its digest is held to the record's")


class SigningKey(Options):
    """Who signs, or whose key is shown."""

    key: str = option("", "the private key's file (by default this user's)")


class Attestations(Options):
    """What others signed about a bundle or a run, and whose word counts."""

    rebuilders: str = option("", "a file of public keys (PEM) of people who built the images again")
    threshold: int = option(1, "how many of them must confirm each image")
    attestations: str = option("", "a folder of signed statements; left out: NAME.tar.attestations beside a bundle")

    def others(self) -> Rebuilders:
        """What `repro.packing` takes."""
        from repro.base.paths import given_path  # noqa: PLC0415 - the time that a help text takes
        from repro.packing.verify import Rebuilders  # noqa: PLC0415 - likewise

        beside = given_path("--attestations", self.attestations) if self.attestations else None
        return Rebuilders(self.rebuilders, self.threshold, beside)


class AuditVerify(AuditInputs, Attestations, Page):
    subject: str = argument("a run's folder, the word latest, a bundle's file, or a folder that was installed from one")
    key: str = option(
        "", "fingerprint of the key that must have signed a bundle; left out: the keys trusted on this machine"
    )
    base: str = option("", "of a difference: the earlier bundle, or the folder that was installed from it")
    auditors: str = option("", "a file of public keys (PEM): of a run's statements, these people's alone count")

    def parsed(self) -> Verify:
        """What `repro.audit` takes."""
        from repro.audit.commands import Verify  # noqa: PLC0415 - clients of engines

        return Verify(self.subject, self.data, self.checkpoint, self.key, self.base, self.others(), self.auditors)


class AuditRerun(Inputs, Engine, On, Offline, Page):
    subject: str = argument("a run's folder (it holds record.json), or the word latest")
    rounds: int = option(30, "timed rounds of the speed checks, 10 or more (30)")
    exact: bool = flag("only the stages that give the same bytes on every machine: neither PyTorch's run nor timing")

    def parsed(self) -> Rerun:
        """What `repro.audit` takes."""
        from repro.audit.rerun import Rerun  # noqa: PLC0415 - clients of engines

        return Rerun(self.data, self.checkpoint, self.engine, not self.offline, self.rounds, self.on, exact=self.exact)


class AuditChallenge(Arch, Offline, Page):
    run: str = option("", "also hold the digests to this run's record")
    images: str = option("", "names, separated by commas; left out: the record's, or all that are always made")


class AuditCompare(Page):
    first: str = argument("a run's folder")
    second: str = argument("another run's, such as one that came from another machine")


class AuditSign(SigningKey):
    folder: str = argument("an audit's folder (it holds audit.json or explanation.json)")


class AuditFarm(Inputs, Engine, Offline):
    folder: str = argument("a folder with bundles: files NAME.tar, or in parts, and folders installed from one")
    rerun: bool = flag("also run each run of each bundle again, as audit.rerun does")
    rounds: int = option(30, "with --rerun: timed rounds of the speed checks, 10 or more (30)")
    key: str = option("", "fingerprint of the key that must have signed each; left out: the keys trusted here")
    sign: str = option("", "the file of your private key, which signs the ledger (by default this user's)")
    ledger: str = option("", "the ledger's file (artifacts/audits/ledger.jsonl)")
    auditors: str = option("", "a file of public keys (PEM) of others who sign this ledger")
    head: str = option("", "sha256 of an entry that the ledger must hold, noted at an earlier audit")
    again: bool = flag("add an entry even where the outcome is the last one's")
    to: str = option("", "folder for the pages; left out: one in artifacts/audits")

    def parsed(self) -> FarmAsked:
        """What `repro.audit` takes."""
        from repro.audit.commands import FarmAsked  # noqa: PLC0415 - clients of engines
        from repro.audit.rerun import Rerun  # noqa: PLC0415 - clients of engines

        how = Rerun(self.data, self.checkpoint, self.engine, not self.offline, self.rounds) if self.rerun else None
        return FarmAsked(
            folder=self.folder, data=self.data, checkpoint=self.checkpoint, key=self.key, sign=self.sign,
            ledger=self.ledger, auditors=self.auditors, head=self.head, again=self.again, to=self.to, rerun=how,
        )  # fmt: skip


class AuditExplain(Sign):
    first: str = argument("A: a layer's tar, a saved archive, a run's or result's folder, or a digest in artifacts/oci")
    second: str = argument("B: of the same kind")
    to: str = option("", "folder for explanation.json; left out: one in artifacts/audits")


class Explore(Options):
    run: str = argument("the folder of the run, or the word latest")
    against: str = option("", "another run, shown beside it")
    bs: int = option(0, "the batch size that is shown; left out: the run's first")
    with_audio: bool = flag(
        "also show sound and spectrograms of a data set of yours; the page is then marked as not to be passed on"
    )
    data: str = option("", "where that data set lies; left out: as in reproduce")
    to: str = option("", "folder for the page (artifacts/explore/RUN)")

    def parsed(self) -> Wanted:
        """What `repro.explore` takes."""
        from repro.explore.commands import Wanted  # noqa: PLC0415 - clients of engines

        return Wanted(self.run, self.against, self.bs, self.with_audio, self.data, self.to)


class BundlePack(Arch, Offline):
    to: str = option("", "the file to write, NAME.tar (artifacts/bundles/… by default)")
    with_sources: bool = flag("add every locked file, so that the images can be rebuilt")
    run: str = option("", "add a run: latest, or a name in artifacts/runs")
    run_detail: str = option("", "how much of that run: full, scores or none (full for the demo's, else to be chosen)")
    include: str = option("", "licensed things, only ever by name: checkpoint, cann (with a comma between)")
    since: str = option("", "an earlier bundle: leave out what it carries")
    part_size: str = option("", "cut into parts of this size, such as 4GB")
    key: str = option("", "the private key's file (made by bundle.keys.make; by default this user's)")
    unsigned: bool = flag("pack without a signature: nothing will call it verified")
    attestations: str = option("", "a folder of signed statements to carry: audits of the run, rebuilds of the images")

    def parsed(self) -> Choices:
        """What `repro.packing` takes; where to write and who signs is apart."""
        from repro.base.paths import given_path  # noqa: PLC0415 - clients of engines
        from repro.packing.pack import Choices, parse_size  # noqa: PLC0415 - clients of engines

        return Choices(
            arch=self.arch,
            with_sources=self.with_sources,
            run=self.run,
            run_detail=self.run_detail,
            include=tuple(sorted({word.strip() for word in self.include.split(",") if word.strip()})),
            since=given_path("--since", self.since) if self.since else None,
            part_size_bytes=parse_size(self.part_size),
            attestations=given_path("--attestations", self.attestations) if self.attestations else None,
            fetch=not self.offline,
        )


class BundleVerify(Attestations):
    path: str = argument("the bundle's file, or the first of its parts, or a folder installed from one")
    key: str = option("", "accept this signer's key alone (its fingerprint)")
    first_use: bool = flag("trust the signer from now on, where no key is trusted here yet")


class BundleDiff(Options):
    old: str = argument("the earlier bundle's file, the first of its parts, or the folder installed from it")
    new: str = argument("the later one")


class BundleResign(SigningKey):
    path: str = argument("the bundle's file, or the first of its parts")
    signer: str = option("", "accept this first signer's key alone (its fingerprint)")


class BundlePage(Options):
    to: str = option("", "the file to write (artifacts/verify.html by default)")


class SupportBundle(Options):
    to: str = option("", "the file to write, NAME.zip (artifacts/support-bundle.zip by default)")
    data: str = option("", "TIMIT's folder or data.zip, whose sentences are taken out; left out: the one in data/")


class ModelSign(Options):
    model: str = argument("a checkpoint, an ONNX or OM file, or a folder")
    key: str = option("", "the file of the private key, of P-256")
    to: str = option("", "the signature's file; left out: MODEL.sig, or model.sig in a folder")


class ModelVerify(Options):
    model: str = argument("the file or folder that was signed")
    keys: str = option("", "a file of the public keys (PEM, P-256) of those who may have signed")
    signature: str = option("", "the signature; left out: MODEL.sig, or model.sig in a folder")


class KeysMake(Options):
    to: str = option("", "the private key's file to write")


class KeysTrust(Options):
    fingerprint: str = argument("of the key, learnt from its owner")
