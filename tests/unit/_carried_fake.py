"""What stands in for srun and the node behind it: FOLDER/mode says what goes wrong there. `make` makes no container.

python _carried_fake.py FOLDER OPTION… -c PROGRAM SIZE DIGEST VERSION LOCAL MODULE LOCAL
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import msgspec

from repro.base.confined import TreeLimits
from repro.base.files import write_atomic
from repro.cluster import wire
from repro.cluster.task_file import Ended, read_task, written
from repro.graph.cache import StatCache
from repro.graph.digests import FileDigest
from repro.graph.leavings import take_in
from repro.graph.made_on import MadeOn
from repro.graph.store import Store
from repro.run import carried_node
from repro.run.on_node import start_of

HERE = MadeOn(identity="x cpu", cpu="a cpu", cores=2, instruction_set="amd64 x", memory_bytes=1)
FOLDER, WORDS = Path(sys.argv[1]), sys.argv[2:]
MODE = (FOLDER / "mode").read_text() if (FOLDER / "mode").exists() else ""
FILE = FileDigest(hashlib.sha256(b"x").hexdigest(), 1)
HOSTILE = {
    "above": {"out/../../x": FILE},
    "elsewhere": {"kits/x": FILE},
    "within a file": {"out/a": FILE, "out/a/b": FILE},
    "too much": {"out/a": FileDigest(FILE.sha256, 1 << 50)},
    "other bytes": {"out/a": FileDigest("0" * 64, 1)},
    "an odd name": {"out/a\u202eb": FILE},
}


def make(folder: Path, environ, tell) -> int:
    """Of the task's name and the bytes of its inputs."""
    task = read_task(folder)
    ended = Ended(outcome="made", machine=HERE, seconds=1.5)
    tell(1, 2, "half")
    store = Store(folder.parents[1] / "store", folder.parents[1] / "tmp", StatCache(None))
    found = task.node.encode()
    for given in task.inputs.values():
        if isinstance(given.path, str):
            found += b"".join(path.read_bytes() for path in sorted(Path(given.path).rglob("*")))
        else:
            before = store.load(given.fingerprint)
            assert before is not None, "an input is not there whole"
            found += (before.out / "result").read_bytes()
    if MODE == "fails":
        ended = Ended(outcome="failed", machine=HERE, error=("the stage says no", "because", "do this"), code=3)
    elif MODE == "other processor" and environ["SLURMD_NODENAME"] == "node1":
        ended = Ended(outcome="other processor", machine=HERE)
    else:
        work = store.workspace()
        (work.result / "out" / "result").write_bytes(found)
        (work.result / "obs" / "time").write_bytes(b"1")
        work.log.write_text("what it printed")
        leavings = take_in(task.node, work.result, [work.log], TreeLimits(), StatCache(None))
        observed = msgspec.to_builtins(wire.Observed(engine="sandbox", wall_s=1.0, limits={}, made_on=HERE))
        store.publish(task.key, work, leavings, observed)
        work.close()
    write_atomic(folder / f"{'.'.join(start_of(environ))}.json", written(ended))
    return 0


def hostile(node: carried_node.Node) -> None:
    """It names, and sends, what no stage may leave."""
    offer = wire.receive(node._in, wire.Offer, "offer")
    observed = wire.Observed(engine="x", wall_s=1.0, limits={}, made_on=HERE)
    ended = Ended(outcome="made", machine=HERE)
    if MODE == "asks for more":
        wire.send(node._out, wire.Lacks(job="7", node="node1", paths=("etc/passwd",)))
    else:
        wire.send(node._out, wire.Brought(ended=ended, files=HOSTILE[MODE], observed=observed))
        node._out.write(b"x" * 2)
    node._out.flush()
    assert offer.files


at = WORDS.index("-c") + 2
assert len(sys.stdin.buffer.read(int(WORDS[at]))) == int(WORDS[at])
number = len((FOLDER / "srun.asked").read_text().splitlines())
if MODE == "lost" and number == 1:
    sys.exit("srun: error: Node failure on node1")
if MODE == "time":
    sys.exit("slurmstepd: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***")
name = "node2" if any(word.startswith("--exclude=node1") for word in WORDS) else "node1"
environ = {"SLURM_JOB_ID": str(number), "SLURMD_NODENAME": name, **os.environ}
carried_node.make = make
own = carried_node.Node(Path(WORDS[-1]), sys.stdin.buffer, sys.stdout.buffer, environ)
if MODE in HOSTILE or MODE == "asks for more":
    hostile(own)
else:
    real = wire.send

    def noted(stream, message) -> None:
        if isinstance(message, wire.Lacks):
            with open(FOLDER / "lacked", "a", encoding="utf-8") as told:
                told.write(f"{' '.join(message.paths)}\n")
        real(stream, message)

    carried_node.wire.send = noted
    own.run()
