"""Which CANN a run takes: told by the files of a host and of data/sources, in each layout that the vendor has had."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.audit.compare import Sides
from repro.base.errors import CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.graph.cann_images import cann_image, host_cann, is_cann
from repro.graph.pipeline import Request, build_graph
from repro.images.definition import image_names, load_definition
from repro.locks.archives import find_source, known_source, load_sources
from repro.machine import cann as machine_cann
from repro.machine.npu import Host
from repro.run.cann_choice import Cann, choose_cann
from repro.run.request import graph_of
from stages.npu import ascend
from tests.simulators.ascend.packages import LAYOUTS, install_on, write_packages
from tests.unit._record_cases import published_record, record_of

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@pytest.fixture(params=LAYOUTS)
def installed(request, tmp_path) -> tuple[str, Path]:
    """A version, and the root of a host that has it."""
    install_on(tmp_path / "usr/local/Ascend", request.param)
    return request.param, tmp_path


def test_host_and_stages_find_the_same_cann_in_every_layout(installed, monkeypatch):
    version, root = installed
    found = machine_cann.find(Host(root, search=()))
    monkeypatch.setattr(ascend, "ROOT", str(root / "usr/local/Ascend"))
    inside = ascend.installation()
    assert found is not None and inside is not None
    assert (found.version, found.identity) == (version, ascend.identity())
    assert inside.toolkit == str(root / "usr/local/Ascend" / found.toolkit)
    assert ascend.is_simulator()


def test_a_version_folder_without_its_short_name_is_found_and_the_newest_of_several(tmp_path, monkeypatch):
    install_on(tmp_path / "usr/local/Ascend", "8.5.0")
    (tmp_path / "usr/local/Ascend/cann").unlink()
    (tmp_path / "usr/local/Ascend/cann-8.5.0-half").mkdir()  # without set_env.sh
    monkeypatch.setattr(ascend, "ROOT", str(tmp_path / "usr/local/Ascend"))
    found = machine_cann.find(Host(tmp_path, search=()))
    assert found is not None and found.toolkit == "cann-8.5.0"
    assert ascend.installation().toolkit.endswith("/cann-8.5.0")


def test_the_hosts_cann_is_taken_by_what_it_says_and_lent_as_a_folder(installed):
    version, root = installed
    cann = choose_cann(Paths(ROOT), "host", Host(root, search=()))
    assert (cann.version, cann.folder) == (version, root / "usr/local/Ascend")
    assert cann.request.startswith(f"host {version}") and host_cann(cann.request) == cann.request[5:]
    assert cann.image == ("cann-host-py37" if version == "6.3.RC1" else "cann-host-py311")
    assert load_definition(DOCKER, cann.image).built_layers[-1].lock == "cann-host"


def test_a_host_without_cann_is_told_so(tmp_path):
    with pytest.raises(CouldNotRun, match="no CANN in /usr/local/Ascend"):
        choose_cann(Paths(ROOT), "host", Host(tmp_path, search=()))


@pytest.mark.parametrize("asked", ["", "6.3.RC1", "6.3.rc1"])
def test_the_tables_version_is_the_tables_image(asked, tmp_path):
    assert choose_cann(Paths(ROOT), asked, Host(tmp_path)) == Cann()
    assert cann_image("") == "cann"


def test_what_is_no_version_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="--cann newest is no version of CANN"):
        choose_cann(Paths(ROOT), "newest", Host(tmp_path))


@pytest.mark.parametrize(
    ("version", "python", "builder"),
    [
        ("6.0.1", "3.7", "cann-builder"),
        ("7.0.RC1", "3.7", "cann-builder"),
        ("8.0.RC1", "3.11", "cann-builder311"),
        ("8.1.rc1", "3.11", "cann-builder311"),
        ("9.0.0-beta.1", "3.11", "cann-builder311"),
    ],
)
def test_each_version_has_an_image_with_the_python_that_it_takes(version, python, builder):
    name = cann_image(version)
    definition = load_definition(DOCKER, name)
    assert (definition.name, definition.python, definition.built_layers[-1].toolchain) == (name, python, builder)
    assert version.lower() in definition.description and is_cann(name)
    assert name not in image_names(DOCKER) and "cann-py311" not in image_names(DOCKER)
    sources = definition.built_layers[-1].source_names("amd64")
    assert f"cann-toolkit-any-amd64@{version.lower()}" in sources


@pytest.mark.parametrize("name", ["cann-host", "cann-newest", "runtime-8.1", "cann-8.1.rc1/.."])
def test_what_no_folder_stands_for_is_no_image(name):
    with pytest.raises(UsageError, match="there is no image"):
        load_definition(DOCKER, name)


@pytest.mark.parametrize("version", LAYOUTS)
def test_packages_are_found_by_the_names_of_their_version_whatever_the_case(version, tmp_path):
    write_packages(tmp_path / "data" / "sources", machine="x86_64", version=version)
    known = load_sources(ROOT / "conf")
    for kind in ("toolkit", "kernels"):
        source = known_source(known, f"cann-{kind}-any-amd64@{version.lower()}")
        found = find_source(Paths(tmp_path), source)
        assert found is not None and version in found.name and kind in found.name.replace("ops", "kernels")
        absent = known_source(known, f"cann-{kind}-any-amd64@7.0.0")
        assert find_source(Paths(tmp_path), absent) is None
    with pytest.raises(UsageError, match="has no"):
        known_source(known, "aclruntime-amd64@8.1.RC1")


def test_the_stages_and_the_probe_of_a_lent_cann_are_told_what_it_must_be():
    request = Request((8,), device="npu", soc_version="Ascend310P3", cann="host 8.1.RC1 V100R001C21")
    nodes = graph_of(request, Paths(ROOT))
    told = {key for key, node in nodes.items() if node.parameters.get("cann") == "8.1.RC1 V100R001C21"}
    assert told == {"convert@8", "infer@8", "measure@8", "probe:cann-host-py311"}
    plain = build_graph(
        Request((8,), device="npu", soc_version="Ascend310P3", cann="8.1.RC1"), ROOT / "conf", Path("d")
    )
    assert plain["convert@8"].stage.image == "cann-8.1.rc1" and "cann" not in plain["convert@8"].parameters


def test_a_cann_that_changed_since_the_run_began_is_refused(installed, monkeypatch, tmp_path):
    _, root = installed
    monkeypatch.setattr(ascend, "ROOT", str(root / "usr/local/Ascend"))
    monkeypatch.setattr(ascend.tempfile, "tempdir", str(tmp_path))
    ascend.Commands(str(tmp_path), ascend.identity())
    with pytest.raises(ascend.StageError, match=r"was 8\.9\.9 when the run began"):
        ascend.Commands(str(tmp_path), "8.9.9")


def test_runs_with_two_versions_of_cann_refute_nothing_of_each_other():
    class Given:
        def __init__(self, cann: str) -> None:
            document = published_record(sizes=(8,))
            document["request"].update(device="npu", **({"cann": cann} if cann else {}))
            self.record = record_of(document)

    def other(one: str, two: str) -> str:
        return Sides(Given(one), Given(two)).other  # type: ignore[arg-type]

    assert other("8.1.RC1", "8.5.0") == "made with other versions of CANN: 8.1.RC1 and 8.5.0"
    assert other("", "host 8.1.RC1") == "made with other versions of CANN: the table's and host 8.1.RC1"
    assert other("8.1.RC1", "8.1.RC1") == other("", "") == ""
