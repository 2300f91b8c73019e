"""The harness of other hosts, without a machine: files read strictly, results judged and drawn, bytes passed on."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from tests import exact_list
from tests.hosts import disk, machine, model, results, run, scenarios, site

ROOT = Path(__file__).resolve().parents[2]
TITLE = 'title = "T"\nshows = "s"\nsuite = "trixie"\narch = "amd64"\nkernel = "linux-image-amd64"\n'
SCENARIO = '[[scenario]]\nname = "readme"\n'


def done(**values: object) -> results.Done:
    fields = {
        "name": "readme", "until": "report", "outcome": "passed", "command": "./bootstrap reproduce", "engine": "auto",
        "commit": "a" * 40, "day": "2026-11-28", "minutes": 12.0, "exact": {}, "unequal": (), "why": "",
    }  # fmt: skip
    return results.Done(**{**fields, **values})


@pytest.mark.parametrize("name", model.names())
def test_every_host_of_the_folder_is_read(name):
    host = model.load(name)
    assert len({each.name for each in host.scenario}) == len(host.scenario)
    for each in host.scenario:
        assert subprocess.run(["sh", "-n", "-c", scenarios.script(each, "f" * 64)], check=False).returncode == 0
    for script in (host.disk, host.start):
        assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TITLE, "scenario"),
        (TITLE + "colour = 1\n" + SCENARIO, "colour"),
        (TITLE + 'cores = "2"\n' + SCENARIO, "cores"),
        (TITLE.replace("trixie", "trixie; rm") + SCENARIO, "suite"),
        (TITLE + 'packages = ["a b"]\n' + SCENARIO, "packages"),
        (TITLE + SCENARIO + 'engine = "lxc"\n', "engine"),
        (TITLE + '[[scenario]]\nname = "other"\n', "name"),
    ],
)
def test_a_host_that_says_something_else_is_wrong_use_with_the_place(tmp_path, monkeypatch, text, place):
    monkeypatch.setattr(model, "HERE", tmp_path)
    (tmp_path / "h.toml").write_text(text)
    with pytest.raises(UsageError, match=place):
        model.load("h")


def test_a_host_that_is_not_there_is_wrong_use():
    with pytest.raises(UsageError, match="no host is called"):
        model.load("../../tests/mutants")


def test_a_disk_is_another_one_when_what_it_is_made_of_changes(tmp_path, monkeypatch):
    (tmp_path / "key.pub").write_text("k")
    (tmp_path / "ca.crt").write_text("c")
    monkeypatch.setattr(model, "HERE", tmp_path)
    names = set()
    for text in (TITLE, TITLE + 'packages = ["git"]\n', TITLE + 'disk = "true"\n', TITLE + "disk_gib = 3\n"):
        (tmp_path / "h.toml").write_text(text + SCENARIO)
        names.add(disk.recipe(model.load("h"), site.Site(), tmp_path / "key"))
    host = model.load("h")
    names.add(disk.recipe(host, site.Site(authorities=(tmp_path / "ca.crt",)), tmp_path / "key"))
    assert len(names) == 5
    (tmp_path / "h.toml").write_text(TITLE + "disk_gib = 3\ncores = 1\n" + SCENARIO)
    assert disk.recipe(model.load("h"), site.Site(), tmp_path / "key") in names


def test_settings_of_this_machine_are_those_of_other_machines_not_of_itself():
    text = (
        "127.0.0.1 localhost\n::1 ip6-localhost\n# 10.0.0.9 old\n10.0.0.1  mirror mirror.example # ours\n\n10.0.0.2\n"
    )
    assert site.other_machines(text) == ("10.0.0.1 mirror mirror.example",)


def test_settings_are_written_where_an_administrator_would(tmp_path):
    for folder in ("etc", "usr/local/share/ca-certificates"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ca.crt").write_text("c")
    site.Site(("10.0.0.1 mirror",), (tmp_path / "ca.crt",), ("http_proxy=http://p:1",)).apply(tmp_path)
    assert (tmp_path / "etc/hosts").read_text() == "127.0.0.1 localhost host\n10.0.0.1 mirror\n"
    assert (tmp_path / "etc/environment").read_text() == "http_proxy=http://p:1\n"
    assert (tmp_path / "usr/local/share/ca-certificates/ca.crt").read_text() == "c"


@pytest.mark.parametrize(("network", "nic"), [(True, "user,model=virtio-net-pci"), (False, "none")])
def test_a_machine_has_the_network_device_that_was_asked_for(tmp_path, network, nic):
    place = machine.Place(tmp_path, tmp_path / "carried", tmp_path / "console.log", tmp_path / "key")
    made = disk.Disk(tmp_path / "root.img", tmp_path / "vmlinuz", tmp_path / "initrd.img")
    for name in model.names():
        words = machine.command_line(model.load(name), made, place, "tcg", network=network)
        assert words[words.index("-nic") + 1] == nic and words.count("-nic") == 1
        assert not [word for word in words if "virtio-net" in word and not network]


def test_what_is_no_accelerator_is_found_out_by_starting_it(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: True)
    monkeypatch.setitem(machine._ARCH, machine.facts.architecture(), ("true", (), "ttyS0"))
    assert machine.accelerator(machine.facts.architecture(), tmp_path / "vmlinuz") == "tcg"
    speaks = tmp_path / "speaks"
    speaks.write_text("#!/bin/sh\necho Linux version 6\n")
    speaks.chmod(0o755)
    monkeypatch.setitem(machine._ARCH, machine.facts.architecture(), (str(speaks), (), "ttyS0"))
    assert machine.accelerator(machine.facts.architecture(), tmp_path / "vmlinuz") == "kvm"


def test_bytes_pass_through_the_pipe_both_ways(tmp_path):
    address = tmp_path / "socket"
    sent = bytes(range(256)) * 2000
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen(1)

        def echo() -> None:
            there, _ = server.accept()
            with there:
                left = len(sent)
                while left:
                    data = there.recv(65536)
                    left -= len(data)
                    there.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        process = subprocess.Popen([sys.executable, "-I", model.HERE / "pipe.py", address],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        writer = threading.Thread(target=lambda: (process.stdin.write(sent), process.stdin.flush()))
        writer.start()
        assert process.stdout.read() == sent
        writer.join()
        thread.join()
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_pipe_whose_reader_gave_up_ends_without_a_word(tmp_path):
    address = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen(1)
        process = subprocess.Popen([sys.executable, "-I", model.HERE / "pipe.py", address],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        there, _ = server.accept()
        process.stdout.close()
        with there:
            there.sendall(b"left over from the connection before")
            assert process.stderr.read() == b""
        process.wait(30)
        process.stdin.close()


def test_digests_are_of_what_the_machine_sent_and_held_to_the_listed_ones():
    listed = {step: each["digest"] for step, each in exact_list.listed()["golden"].items()}
    document = {"key": {"stage": "features"}, "outputs": {"a": {"sha256": "0" * 64, "size_bytes": 1}}}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        data = json.dumps(document).encode()
        member = tarfile.TarInfo("ab/cd/result.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    found = results.exact_digests(stream.getvalue())
    assert results.held_to(listed, found) == ({"features": found["features"]}, ("features",))
    right = {step.partition("@")[0]: digest for step, digest in listed.items()}
    assert results.held_to(listed, {**right, "probe": "1" * 64}) == (listed, ())


@pytest.mark.parametrize(
    ("refused", "code", "said", "unequal", "outcome"),
    [
        ("", 0, "", (), "passed"),
        ("", 0, "", ("features",), "failed"),
        ("", 4, "", (), "failed"),
        ("pages of", 4, "error: pages of 16 KiB", (), "refused, as it must be"),
        ("pages of", 0, "pages of 16 KiB", (), "failed"),
        ("pages of", 4, "another reason", (), "failed"),
        ("pages of", 70, "pages of: a defect", (), "failed"),
    ],
)
def test_a_scenario_passes_only_with_the_code_and_the_digests_it_must_have(refused, code, said, unequal, outcome):
    scenario = model.Scenario(name="readme", refused=refused)
    assert run.judge(scenario, code, said, unequal) == outcome


def test_scenarios_are_chosen_in_the_host_s_order():
    host = model.load("debian-12-arm64")
    assert [each.name for each in run.chosen_scenarios(host, "verify,bundle")] == ["bundle", "verify"]
    assert run.chosen_scenarios(host, "") == list(host.scenario)
    with pytest.raises(UsageError, match="no scenario 'sold'"):
        run.chosen_scenarios(host, "bundle,sold")


class Told:
    """A machine that answers with a code, and brings what it is given."""

    def __init__(self, code, said="", brought=()):
        self.code, self.said, self.brought, self.env = code, said, dict(brought), None

    def run(self, script, log, limit_s, env):
        self.env = env
        log.write_text(self.said)
        return machine.Answer(self.code, log)

    def fetch(self, path, to):
        if path in self.brought:
            to.write_bytes(self.brought[path])
        return path in self.brought


def test_a_run_that_ended_well_and_brought_nothing_has_not_passed(tmp_path):
    scenario = model.Scenario(name="readme")
    with pytest.raises(CouldNotRun, match="no results came back"):
        run._one(Told(0), scenario, {}, tmp_path, ("a" * 40, ""), pace=1)


def test_what_a_refused_run_left_is_not_read_for_digests(tmp_path):
    scenario = model.Scenario(name="readme", refused="no links")
    told = Told(4, "error: no links here", {"results.tar": b""})
    assert run._one(told, scenario, {}, tmp_path, ("a" * 40, ""), pace=1).outcome == "refused, as it must be"


def test_a_scenario_s_time_limits_are_as_long_as_its_machine_is_slow(tmp_path):
    told = Told(4, "error: slow")
    run._one(told, model.Scenario(name="verify"), {}, tmp_path, ("a" * 40, ""), pace=10)
    assert told.env == {"BUNDLE_TIME_FACTOR": "10"}


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path, monkeypatch):
    dead = {}
    for each in ("disks", "machines"):
        with temporary_folder(tmp_path / "artifacts" / "hosts" / each, "left") as folder:
            dead[each] = folder
        folder.mkdir()

    def no_disk(*_):
        raise CouldNotRun("no mirror")

    monkeypatch.setattr(disk, "make", no_disk)
    with pytest.raises(CouldNotRun, match="no mirror"):
        run.run_host(Paths(tmp_path), "debian-13", "", lambda _: None)
    assert not [folder for folder in dead.values() if folder.exists()]


def test_a_later_run_of_one_scenario_keeps_the_others(tmp_path):
    results.save(tmp_path, results.Result("h", "m", {}, (done(), done(name="verify", why="x", outcome="failed"))))
    results.save(tmp_path, results.Result("h", "m", {"kernel": "6"}, (done(name="verify", minutes=1.0),)))
    known = results.load(tmp_path / results.FOLDER / "h.json")
    assert [(each.name, each.outcome) for each in known.scenarios] == [("readme", "passed"), ("verify", "passed")]


def test_a_result_file_that_says_something_else_is_refused(tmp_path):
    path = results.save(tmp_path, results.Result("h", "m", {}, (done(),)))
    path.write_text(path.read_text().replace('"passed"', '"very good"'))
    with pytest.raises(VerificationFailed, match="outcome"):
        results.load(path)


def test_every_result_file_is_of_a_host_that_is_there():
    for path in (ROOT / results.FOLDER).glob("*"):
        assert path.suffix == ".json" and results.load(path).host == path.stem and path.stem in model.names()


def test_the_page_is_what_the_result_files_say():
    page = (ROOT / results.PAGE).read_text("utf-8")
    assert page == results.with_table(page, results.draw(ROOT)), "write it anew: invoke hosts.page"


def test_a_cell_without_a_result_says_not_run(tmp_path):
    name = model.names()[0]
    assert results.draw(tmp_path).count(results.NOT_RUN) == 4 * len(model.names())
    results.save(tmp_path, results.Result(name, "m", {}, (done(exact={"lm": "0" * 64}),)))
    row = next(line for line in results.draw(tmp_path).splitlines() if f"{name}.toml" in line)
    assert row.count(results.NOT_RUN) == 2 and "1 of 1 exact digests as listed" in row and "aaaaaaa" in row


def test_a_page_without_its_marks_is_not_written():
    with pytest.raises(UsageError, match=re.escape(results.FIRST)):
        results.with_table("# a page", "| table |")


@pytest.mark.parametrize(("refusals", "ends_well"), [(1, True), (199, False)])
def test_a_connection_that_was_not_let_in_is_tried_again_and_not_taken_for_an_answer(
    tmp_path, monkeypatch, refusals, ends_well
):
    tried = tmp_path / "tried"
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\necho x >>{tried}\n[ $(wc -l <{tried}) -gt {refusals} ] || exit 255\n"
        'case "$*" in *" cat "*) echo brought;; *) exec sh -s;; esac\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    place = machine.Place(tmp_path, tmp_path / "carried", tmp_path / "console.log", tmp_path / "key")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        running = machine.Machine(process, place)
        if ends_well:
            answer = running.run("echo said; exit 7", tmp_path / "log", 60)
            assert (answer.code, answer.text()) == (7, "said\n")
            tried.unlink()
            assert running.fetch("record.json", tmp_path / "brought")
            assert (tmp_path / "brought").read_text() == "brought\n"
        else:
            assert not running.fetch("record.json", tmp_path / "brought")
            assert not (tmp_path / "brought").exists()
            with pytest.raises(CouldNotRun, match="lets nobody in"):
                running.run("echo said", tmp_path / "log", 60)
