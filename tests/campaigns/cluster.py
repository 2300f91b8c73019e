"""Stages as jobs of a real Slurm cluster: the same results as here, whatever happens to nodes, disks and submitters.

    python -m tests.campaigns.cluster            everything, and the result into tests/campaigns/cluster.json
    python -m tests.campaigns.cluster --short    what CI runs: tests/integration/test_slurm.py
    python -m tests.campaigns.cluster --page     draws docs/decisions/cluster.md's table from cluster.json

Needs root and Debian's slurmd, slurmctld, slurm-client, munge and iproute2. It starts a controller and three nodes of
its own (tests/simulators/slurm/cluster.sh), and prints what it found as JSON: one entry per part, empty where all is as
it must be. The graph is of quick stages; its image is made of this host's Python.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from msgspec import UNSET

from repro.base.errors import BundleError
from repro.record import load_record
from repro.record.identity import same_everywhere
from tests.campaigns.cluster_site import (
    NODES,
    ROOT,
    SCRIPT,
    SPEECH,
    Site,
    Submitter,
    accounted,
    bring_back,
    digests,
    end_node,
    node_state,
    nothing_left,
    nothing_shared,
    of_queue,
    prepare,
    say,
    slurmd_of,
    wait_until,
)
from tests.campaigns.cluster_site import is_possible as is_possible
from tests.exact_list import listed
from tests.integration import _trial

KEPT = Path(__file__).with_name("cluster.json")
PAGE = ROOT / "docs" / "decisions" / "cluster.md"
_TABLE = re.compile("(<!-- drawn by .*-->\n).*?\n(<!-- end of what is drawn -->)", re.DOTALL)
SHORT_KILLS = 2


class Campaign:
    """The parts; each gives what is wrong.

    Args:
        site: the shared folder.
        kills: how often a slurmd is killed, and how often a whole node.
    """

    def __init__(self, site: Site, kills: int) -> None:
        self.site, self.kills = site, kills
        self.here = site.run(site.folder / "here", "local", site.nodes(6, 0.2))
        self.facts: dict[str, dict[str, object]] = {}
        self.to_look_at: list[tuple[Path, Mapping[str, object]]] = []

    def results(self, name: str) -> Path:
        return self.site.folder / f"results-{name}"

    def identity(self) -> list[str]:
        """The results are a local run's, every step was a job, and a second command takes what is stored."""
        results, nodes = self.results("identity"), self.site.nodes(6, 0.2)
        there = Submitter(self.site, results, 6, 0.2).result()
        wrong = [f"{key} differs" for key in self.here if not self._same(there, key)]
        wrong += [f"{key} was stored" for key, item in there.items() if item["cached"]]
        wrong += [f"{key}: no facts of its machine" for key, item in there.items() if "cpu" not in item["on"]]
        wrong += [f"{key}: names its machine" for key, item in there.items() if "name" in item["on"]]
        again = Submitter(self.site, results, 6, 0.2).result()
        wrong += [f"{key} was made twice" for key, item in again.items() if not item["cached"]]
        return wrong + nothing_left(results, nodes)

    def alone(self) -> list[str]:
        """By Slurm's own account no job ran beside one that measures."""
        wrong, jobs = [], accounted()
        measured = [job for job in jobs if re.search(":(speed|measure@.*)$", job.name)]
        for job in measured:
            beside = [other for other in jobs if other is not job and other.node == job.node]
            beside = [other for other in beside if other.ended > job.began and other.began < job.ended]
            wrong += [f"{other.name} beside {job.name}" for other in beside]
        self.facts["alone"] = {"measurements": len(measured), "jobs": len(jobs)}
        return wrong if measured else ["nothing was measured"]

    def killed(self) -> list[str]:
        """slurmd is killed with -9 in mid stage, again and again, and each second time the whole machine: queued anew,
        the same result, nothing left."""
        wrong: list[str] = []
        with ThreadPoolExecutor(2) as pool:  # one kill on each side of the cluster; both sides go on on node3
            for turn in range(0, self.kills, 2):
                sides = zip(range(turn, self.kills), ("left", "right"))
                wrong += [line for found in pool.map(lambda each: self._killed(*each), sides) for line in found]
                for number in range(turn, min(turn + 2, self.kills)):
                    left = nothing_left(self.results(f"killed-{number}"), self.site.nodes(1, 3.0))
                    wrong += [f"kill {number}: {what}" for what in left]
        self.facts["killed"] = {"kills": self.kills}
        return wrong

    def _killed(self, turn: int, partition: str) -> list[str]:
        command = Submitter(self.site, self.results(f"killed-{turn}"), 1, 3.0, partition=partition)
        node = command.wait_for(r"wide@0: runs on (\S+)")
        wrong = []
        if turn % 2 == 0:
            os.kill(slurmd_of(node), signal.SIGKILL)
        else:
            end_node(node)
            if node not in command.wait_for(r"was lost|gave the job up"):
                wrong.append(f"kill {turn}: {node} is not named: {command.said}")
        found = command.result()
        bring_back(node)
        return wrong + [f"kill {turn}: {key} differs" for key in found if not self._same(found, key)]

    def _same(self, found: Mapping[str, Mapping[str, object]], key: str) -> bool:
        return found[key]["digest"] == self.here[key]["digest"]

    def at_once(self) -> list[str]:
        """Two submitters at once make each step once."""
        results, before = self.results("at-once"), len(accounted())
        both = [Submitter(self.site, results, 6, 0.5) for _ in range(2)]
        found = [command.result() for command in both]
        wrong = [f"{key} differs" for key in self.here if not self._same(found[0], key)]
        wrong += [] if digests(found[0]) == digests(found[1]) else ["the two differ"]
        made = [job for job in accounted()[before:] if job.name.startswith("lstm-ctc:") and "facts" not in job.name]
        nodes = self.site.nodes(6, 0.5)
        wrong += [] if len(made) == len(nodes) else [f"{len(made)} jobs for {len(nodes)} steps"]
        return wrong + nothing_left(results, nodes)

    def picked_up(self) -> list[str]:
        """A command that is killed leaves its jobs; the same command goes on with them. Ctrl-C cancels them."""
        results, before = self.results("picked-up"), len(accounted())
        command = Submitter(self.site, results, 1, 10.0, partition="one")
        command.wait_for("wide@0: runs on")
        command.process.kill()
        command.process.wait()
        again = Submitter(self.site, results, 1, 10.0, partition="one")
        again.wait_for("wide@0: (?:goes on as job|stored)")  # stored, where this machine was slower than the job
        again.result()
        jobs = [job for job in accounted()[before:] if job.name.endswith(":wide@0") and job.partition == "one"]
        wrong = [] if len(jobs) == 1 else [f"{len(jobs)} jobs for one step"]
        command = Submitter(self.site, self.results("cancelled"), 1, 60.0, partition="one")
        command.wait_for("wide@0: runs on")
        command.process.send_signal(signal.SIGINT)
        command.process.communicate(timeout=60)
        wait_until("the jobs are cancelled", lambda: not of_queue("%i", "--partition=one"), 30)
        self.to_look_at.append((results, self.site.nodes(1, 10.0)))
        return wrong

    def full_disk(self) -> list[str]:
        """A shared disk that fills up is named, whether on a node or here; with room, the same command goes on."""
        small = Path(os.environ["CLUSTER_FOLDER"]) / "small"
        results, size = small / "results", str(200 << 20)
        said = Submitter(self.site, results, 1, 0.0, size, shared="/", partition="right").error()
        wrong = [] if re.search("No space left|disk is full", said) else [f"not named: {said[-1500:]}"]
        wrong += [] if "Traceback" not in said else [f"a traceback: {said[-1500:]}"]
        subprocess.run(["mount", "-o", "remount,size=1g", str(small)], check=True)
        Submitter(self.site, results, 1, 0.0, size, shared="/", partition="right").result()
        self.to_look_at.append((results, self.site.nodes(1, 0.0)))
        return wrong

    def left_over(self) -> list[str]:
        """Nothing is left of the parts that went on beside each other."""
        return [line for results, nodes in self.to_look_at for line in nothing_left(results, nodes)]

    def carried(self) -> list[str]:
        """No folder is shared: the nodes see neither checkout nor results; files go by digest, and the node that is
        lost is named, and its job made elsewhere."""
        results, nodes = self.results("carried"), self.site.nodes(2, 0.2)
        self.site.settings(shared="", carried=True, local="/var/tmp/carried")
        try:
            with nothing_shared((ROOT, Path(sys.prefix).resolve(), self.site.folder.parent)):
                there = Submitter(self.site, results, 2, 0.2).result()
                again = Submitter(self.site, results, 2, 0.2).result()
                wrong = [f"{key} differs" for key in there if not self._same(there, key)]
                wrong += [f"{key} was stored" for key, item in there.items() if item["cached"]]
                wrong += [f"{key}: no facts of its machine" for key, item in there.items() if "cpu" not in item["on"]]
                wrong += [f"{key} was made twice" for key, item in again.items() if not item["cached"]]
                wrong += nothing_left(results, nodes)
                if self.kills > SHORT_KILLS:
                    wrong += self._lost_while_carried()
        finally:
            self.site.settings()
        return wrong

    def _lost_while_carried(self) -> list[str]:
        results = self.results("carried-lost")
        command = Submitter(self.site, results, 1, 3.0)
        node = command.wait_for(r"wide@0: runs on (\S+)")
        end_node(node)
        named = command.wait_for("was lost")
        found = command.result()
        bring_back(node)
        wrong = [] if "submitted again" in named else [f"not named: {named}"]
        wrong += [f"{key} differs" for key in found if not self._same(found, key)]
        return wrong + nothing_left(results, self.site.nodes(1, 3.0))

    def many(self) -> list[str]:
        """A sweep of 500 quick steps costs less than a second for each."""
        results, began_s = self.results("many"), time.monotonic()
        found = Submitter(self.site, results, 500, 0.0).result(1500)
        each_s = (time.monotonic() - began_s) / len(found)
        self.facts["many"] = {"steps": len(found), "per_step_s": round(each_s, 3)}
        return [] if each_s < 1.0 else [f"{each_s:.2f} s per step"]

    def spread(self) -> list[str]:
        """Three nodes take less time than one: of steps that wait. The nodes share the cores of one machine, so that
        steps which compute cannot show it here, and say so."""
        taken: dict[str, float] = {}
        for kind, words in (("waiting", ("36", "2.0", "0", "0")), ("computing", ("24", "0", "0", "1.5"))):
            for name, partition in (("one", "one"), ("three", "p")):
                self.site.settings(partition=partition, measure_on="node1")
                results, began_s = self.results(f"spread-{kind}-{name}"), time.monotonic()
                Submitter(self.site, results, int(words[0]), float(words[1]), *words[2:]).result(900)
                taken[f"{kind} on {name}"] = round(time.monotonic() - began_s, 1)
        self.site.settings()
        ratios = {f"{kind}_ratio": round(taken[f"{kind} on one"] / taken[f"{kind} on three"], 2)
                  for kind in ("waiting", "computing")}  # fmt: skip
        self.facts["spread"] = {**ratios, "cores": os.cpu_count(), "seconds": taken}
        return [] if ratios["waiting_ratio"] > 1.0 else [f"three nodes were no faster: {taken}"]

    def reproduced(self) -> list[str]:
        """A whole `reproduce` and a sweep: the results that any machine gives; doctor finds nothing to say before."""
        swept = self.site.folder / "sweep.toml"
        swept.write_text(
            f'repeats = 1\n[matrix]\ncheckpoints = ["demo"]\ndata = ["{SPEECH}"]\nbatch_sizes = [4, 8]\n'
            '[run]\nsplit = "dev"\nloop = 2\n'
        )
        wrong: list[str] = []
        said = self._invoke(wrong, "doctor", "--on", "slurm")
        wrong += [f"doctor: {node} is not ok" for node in NODES if not re.search(f"ok +node {node}", said)]
        self._invoke(wrong, "reproduce", *ON_SLURM, "--bs", "4", "--loop", "2", "--decode", "Beam")
        record = load_record(self.whole / "runs" / "latest" / "record.json")
        listed_here = {key: entry["digest"] for key, entry in listed()["golden"].items()}
        wrong += [] if same_everywhere(record.stages) == listed_here else ["the results are not those of any machine"]
        told = [s.observations.made_on for s in record.stages]
        made_on = {one.identity for one in told if one is not UNSET}
        wrong += [] if UNSET not in told else ["a result has no facts of its machine"]
        self._invoke(wrong, "sweep", str(swept), "--on", "slurm", "--to", str(self.whole / "swept"))
        wrong += [f"task {path.name}" for path in (self.whole / "cluster").glob("*") if len(path.name) >= 64]
        self.facts["reproduced"] = {"steps": len(record.stages), "nodes": len(made_on)}
        return wrong

    def rerun(self) -> list[str]:
        """`audit.rerun` of the whole run on the cluster refutes nothing, and leaves nothing on the nodes."""
        wrong: list[str] = []
        words = ("audit.rerun", "latest", *ON_SLURM, "--rounds", "10", "--to", str(self.whole / "audit"))
        self._invoke(wrong, *words, codes=(0, 4))  # 4: a busy machine leaves the speeds undecided
        claims = json.loads((self.whole / "audit" / "audit.json").read_bytes())["claims"]
        wrong += [f"rerun: {claim}" for claim in claims if claim["status"] == "refuted"]
        left = Path(os.environ["CLUSTER_FOLDER"]).glob("node-*/*rerun-*")
        wrong += [f"{path} is left of the rerun" for path in left]
        self.facts["rerun"] = dict(Counter(claim["status"] for claim in claims))
        return wrong

    @property
    def whole(self) -> Path:
        return self.site.folder / "reproduced"

    def _invoke(self, wrong: list[str], *words: str, codes: Sequence[int] = (0,)) -> str:
        """A command of this checkout on the cluster; what it says. Another exit code is added to what is wrong."""
        own = {"SLURM_SHARED": "/", "SLURM_LOCAL": "/var/tmp/repro", "BUNDLE_RESULTS": str(self.whole)}
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words], cwd=ROOT, env={**os.environ, **own}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        wrong.extend([] if done.returncode in codes else [f"{words[0]}: {done.returncode}: {said[-3000:]}"])
        return said

    def vanished(self) -> list[str]:
        """The node that speeds are measured on is down: said before anything is submitted, by its name."""
        os.kill(slurmd_of("node3"), signal.SIGKILL)
        wait_until("the node goes down", lambda: "down" in node_state("node3"))
        try:
            said = Submitter(self.site, self.results("vanished"), 2, 0.0, measure_on="node3").error()
        finally:
            bring_back("node3")
        return [] if "node3" in said and "down" in said and "measure_on" in said else [f"not named: {said}"]


WHOLE = ("reproduced", "rerun")
LONG = (*WHOLE, "many", "spread")
ON_SLURM = ("--data", str(SPEECH), "--checkpoint", "demo", "--on", "slurm")
TOGETHER = ("picked_up", "full_disk", "vanished")  # each on nodes of its own; most of their time is waiting
PARTS = ("identity", "killed", "at_once", "carried", *TOGETHER, "left_over", "alone")


def inside(folder: Path, kills: int, parts: list[str]) -> dict[str, object]:
    """All parts, in a cluster that runs: by part what is `wrong`, and figures."""
    began_s = time.monotonic()
    campaign = Campaign(Site.made(folder), kills)
    say(f"== ready after {time.monotonic() - began_s:.0f} s")
    found: dict[str, object] = {}

    def one(name: str) -> None:
        began_s = time.monotonic()
        try:
            wrong = getattr(campaign, name)()
        except (AssertionError, BundleError, subprocess.SubprocessError) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        seconds = round(time.monotonic() - began_s)
        found[name] = {"wrong": wrong, "seconds": seconds, **campaign.facts.get(name, {})}
        say(f"== {name}: {wrong or 'as it must be'}, {seconds} s")

    for group, names in itertools.groupby(parts, lambda name: name if name not in TOGETHER else "together"):
        with ThreadPoolExecutor(len(TOGETHER) if group == "together" else 1) as pool:
            list(pool.map(one, names))
    return found


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """Readable by other users, as a shared folder is."""
    with tempfile.TemporaryDirectory(prefix="cluster-campaign-") as name:
        os.chmod(name, 0o755)
        (Path(name) / "site").mkdir()
        yield Path(name) / "site"


def run(*, kills: int, parts: list[str], timeout_s: float) -> dict[str, dict[str, object]]:
    """Start a cluster, run the parts in it, end it."""
    prepare(whole=any(part in WHOLE for part in parts))
    with shared_folder() as folder:
        done = subprocess.run(
            [str(SCRIPT), "-n", "3", sys.executable, "-m", "tests.campaigns.cluster", "--inside", str(folder),
             "--kills", str(kills), "--parts", ",".join(parts)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "CLUSTER_NODE_MB": "6000"},
        )  # fmt: skip
        return json.loads(done.stdout)


def keep(found: Mapping[str, Mapping[str, object]]) -> None:
    """Write the parts' results beside those of other parts; the page is drawn from them."""
    known = json.loads(KEPT.read_bytes()) if KEPT.exists() else {}
    today = date.today().isoformat()
    known.update({name: {**part, "date": today, "cores": os.cpu_count()} for name, part in found.items()})
    KEPT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def table() -> str:
    """One row per part: what it is about, what was found."""
    lines = ["| part | what must be so | found | date |", "|---|---|---|---|"]
    kept = json.loads(KEPT.read_bytes())
    for name in dict.fromkeys((*PARTS, *LONG)):
        part, about = kept.get(name), " ".join((getattr(Campaign, name).__doc__ or "").split())
        if part is None:
            lines.append(f"| {name} | {about} | no result of this part is kept yet | |")
            continue
        figures = {key: value for key, value in part.items() if key not in ("wrong", "date", "cores", "seconds")}
        told = "as it must be" if not part["wrong"] else f"**{len(part['wrong'])} findings**"
        more = "".join(f", {key.replace('_', ' ')} {value}" for key, value in figures.items())
        lines.append(f"| {name} | {about} | {told}{more} | {part['date']}, {part['cores']} cores |")
    return "\n".join(lines) + "\n"


def drawn(text: str) -> str:
    """A page with its table drawn anew."""
    return _TABLE.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", text)


def write_page() -> None:
    """Draw the page's table."""
    PAGE.write_text(drawn(PAGE.read_text("utf-8")))


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--short", action="store_true")
    words.add_argument("--kills", type=int, default=0)
    words.add_argument("--parts", default="")
    words.add_argument("--page", action="store_true")
    words.add_argument("--inside", type=Path)
    words.add_argument("--submit", nargs="+")
    given = words.parse_args()
    if given.submit:
        folder, results, wide, seconds, *more = given.submit
        site = Site(Path(folder))
        try:
            size_bytes, busy_s = (*more, *("0", "0")[len(more) :])
            nodes = site.nodes(int(wide), float(seconds), int(size_bytes), float(busy_s))
            print(json.dumps(site.run(Path(results), "slurm", nodes)))
        except BundleError as error:
            say(error.diagnostics())
            return error.exit_code
        return 0
    if given.page:
        write_page()
        return 0
    everything = PARTS if given.short else (*PARTS[:-1], *LONG, PARTS[-1])
    parts = [name for name in given.parts.split(",") if name] or list(everything)
    if given.inside:
        try:
            print(json.dumps(inside(given.inside, given.kills, parts)))
        finally:
            _trial.clean_up()
        return 0
    kills = given.kills or (SHORT_KILLS if given.short else 20)
    found = run(kills=kills, parts=parts, timeout_s=7200)
    print(json.dumps(found, indent=2))
    if not given.short:
        keep(found)
    return int(any(part["wrong"] for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
