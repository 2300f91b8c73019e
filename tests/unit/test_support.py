"""The archive that is sent when something fails: what it holds, what it does not, and that it is the same twice."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from _record_cases import demo_record, record_of

from repro.base.errors import UsageError
from repro.base.paths import Paths
from repro.cli.support import CONTENTS, Surroundings, archive, make_bundle
from repro.guide.published import load_published
from repro.guide.verdict import verdict
from repro.machine.npu import Host
from repro.record import record_bytes
from tests.simulators.ascend.host import AscendHost
from tests.simulators.ascend.host import run as run_simulated

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "The quick brown heron sat on grandmother's blue kettle"
PLANTED = {
    "user": "zhangwei", "full name": "Zhang Wei Example", "host": "npu-lab-17", "domain": "physics.hidden.example",
    "proxy": "proxy-of-lab", "serial": "2102312ABC10K8000123", "mac": "52:54:00:ab:cd:ef", "ipv4": "10.20.30.40",
    "ipv6": "fd00:12:34::7", "mail": "zw@hidden.example", "path": "/mnt/secret/study.zip", "password": "hunter2hunter2",
    "raw key": "3f" * 32, "speaker": "FQQQ0", "utterance": "MZZZ0_SX317", "words": "brown heron sat",
    "phones": "sil iy dh kcl zh",
}  # fmt: skip
LOG = (
    "stage features: {path} of {user} ({full name}) on {host} [{mac}] {ipv4} {ipv6}\n"
    "mail {mail}\nBUNDLE_KEY_PASSPHRASE={password}\nkey {raw key}\nerror: {utterance} by {speaker}: said '{words}'\n"
    "0 46797 A line of text.\nreference {phones}\nproxy {proxy} {domain}\nSerial Number : {serial}\nexit code 3\n"
).format(**PLANTED)


@pytest.fixture
def made(tmp_path):
    """A checkout whose every part holds what must not leave it, and the machine around it."""
    root = tmp_path / "home" / "zhangwei" / "lstm"
    paths = Paths(root)
    host = AscendHost().make(tmp_path / "machine")
    board = tmp_path / "machine/usr/local/bin/npu-smi.board"
    board.write_text(
        board.read_text().replace("Serial Number                  : NA", f"Serial Number : {PLANTED['serial']}")
    )
    (host.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{PLANTED['ipv4']} {PLANTED['host']} other-name\n")
    (host.root / "etc/resolv.conf").write_text(f"search {PLANTED['domain']}\n")
    (root / "conf").mkdir(parents=True)
    (root / "conf/site.toml").write_text(f'proxy = "http://u:{PLANTED["password"]}@{PLANTED["proxy"]}:3128"\n')
    paths.logs.mkdir(parents=True)
    (paths.logs / "features.log").write_text(LOG + str(paths.data / "x"))
    speaker = root / "data/TIMIT/TRAIN/DR1/FQQQ0"
    speaker.mkdir(parents=True)
    (speaker / "SX317.TXT").write_text(f"0 46797 {SENTENCE}.\n")
    document = demo_record()
    document["checkpoint"]["trust"] = LOG
    document["data"]["excluded"] = [{"utterance": PLANTED["utterance"], "reason": LOG}]
    found = record_of(document)
    record = found.judged(verdict(found, load_published(ROOT / "conf/published.toml")))
    (paths.runs / "latest").mkdir(parents=True)
    (paths.runs / "latest/record.json").write_bytes(record_bytes(record))
    stage = record.stages[0]
    obs = paths.store / stage.fingerprint[:2] / stage.fingerprint / "obs"
    obs.mkdir(parents=True)
    (obs / "stage.log").write_text(LOG)
    around = Surroundings(
        doctor=lambda: f"ok  machine {PLANTED['host']}\nok  data {root}/data/TIMIT\n{LOG}",
        host=Host(host.root, search=(), run=run_simulated),
        users=lambda: {PLANTED["user"], PLANTED["full name"]},
        home=tmp_path / "home" / "zhangwei",
        node=f"{PLANTED['host']}.{PLANTED['domain']}",
        environ={"HTTPS_PROXY": f"http://{PLANTED['proxy']}:3128"},
    )
    return paths, around


def opened(path):
    with zipfile.ZipFile(path) as source:
        return {entry.filename: source.read(entry).decode() for entry in source.infolist()}


def test_nothing_that_was_planted_anywhere_is_in_the_archive_and_what_helps_is(made):
    paths, around = made
    said = make_bundle(paths, "", "", around)
    texts = opened(paths.results / "support-bundle.zip")
    assert set(texts) >= {
        CONTENTS, "doctor.txt", "versions.txt", "logs/features.log", "run/corpus/stage.log", "run/record.json",
        "npu/npu-smi-info.txt", "npu/npu-smi-info-t-board-i-7.txt", "npu/usr.local.Ascend.driver.version.info",
    }  # fmt: skip
    for name, text in {**texts, "what is said": said}.items():
        for kind, secret in PLANTED.items():
            assert secret.lower() not in text.lower(), (name, kind)
        assert str(around.home) not in text
    assert "310P3" in texts["npu/npu-smi-info.txt"] and "22.0.4" in texts["npu/usr.local.Ascend.driver.version.info"]
    assert "exit code 3" in texts["logs/features.log"] and "<checkout>/<path>" in texts["logs/features.log"]
    assert "msgspec" in texts["versions.txt"]
    assert json.loads(texts["run/record.json"])["verdict"]["outcome"] == "not-comparable"


def test_it_says_what_it_holds_and_how_much_of_each_kind_was_taken_out(made):
    paths, around = made
    said = make_bundle(paths, "", "", around)
    contents = opened(paths.results / "support-bundle.zip")[CONTENTS]
    assert contents in said
    for text in ("logs/features.log", "address: ", "host: ", "key: ", "path: ", "serial number: ", "speaker: ",
                 "TIMIT's text: ", "user: ", "1 sentences of the corpus"):  # fmt: skip
        assert text in contents


def test_the_same_machine_gives_the_same_bytes(made, tmp_path):
    paths, around = made
    for name in ("a.zip", "b.zip"):
        make_bundle(paths, str(tmp_path / name), "", around)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert archive({"x": "1", CONTENTS: "2"}) == archive({CONTENTS: "2", "x": "1"})
    with zipfile.ZipFile(io.BytesIO(archive({"a": "", CONTENTS: ""}))) as source:
        assert [entry.date_time[0] for entry in source.infolist()] == [1980, 1980]
        assert source.namelist()[0] == CONTENTS


def test_sentences_are_known_from_a_zip_and_from_where_the_option_says(made, tmp_path):
    paths, around = made
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as target:
        target.writestr("TRAIN/DR1/FQQQ0/SX1.TXT", "0 1 Nobody paints seven crooked ladders")
    (paths.logs / "features.log").write_text("heard: paints seven crooked")
    make_bundle(paths, "", str(tmp_path / "data.zip"), around)
    assert opened(paths.results / "support-bundle.zip")["logs/features.log"] == "heard: <TIMIT's text>"
    with pytest.raises(UsageError):
        make_bundle(paths, "", str(tmp_path / "absent"), around)


def test_a_part_that_fails_is_said_and_the_others_are_there(made):
    paths, around = made

    def broken():
        raise RuntimeError(f"no way on {PLANTED['host']}")

    (paths.runs / "latest/record.json").write_text("{}")
    (paths.logs / "link.log").symlink_to("/etc/passwd")
    make_bundle(paths, "", "", replace(around, doctor=broken))
    texts = opened(paths.results / "support-bundle.zip")
    assert texts["doctor.txt"] == "could not be taken: no way on <host>\n"
    assert "could not be listed" in texts["logs/NOT-TAKEN.txt"] and "run/record.json" not in texts
    assert "root:" not in "".join(texts.values())


def test_a_long_log_is_taken_by_its_end(made):
    paths, around = made
    (paths.logs / "features.log").write_text("x" * 100 + "\n" + "line\n" * 100_000 + "the end\n")
    make_bundle(paths, "", "", around)
    text = opened(paths.results / "support-bundle.zip")["logs/features.log"]
    assert text.startswith("line\n") and text.endswith("the end\n") and len(text) <= 1 << 18
