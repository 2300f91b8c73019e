"""The compatibility table held against probes: each row whole, and the words that a person reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from _record_cases import document_of

from repro.base.errors import UsageError
from repro.guide.toolchain import Component, compare, describe, deviations, load_components
from repro.record.stage_files import ProbeFile

PROBE = {
    "python": "3.7.5", "implementation": "CPython", "glibc": "2.31", "wheels": {"torch": "1.8.0+cpu"},
    "debs": {"libc6": "2.31"}, "found": {"kaldi": "Kaldi 5.5", "cann": "6.3.rc1"}, "simulator": False,
}  # fmt: skip


def found(component: Component, image: str = "exporter", host=None, **probe):
    probes = {image: msgspec.convert({**PROBE, **probe}, ProbeFile)}
    (row,) = compare((component,), probes, host or {})
    return row


def outcome(component: Component, **more):
    row = found(component, **more)
    return row.found, row.status, row.probe


def test_a_row_says_what_was_required_found_where_and_what_for():
    component = Component("PyTorch", "1.8.0", "exporter", "wheel:torch", "exports ONNX", kind="requirement")
    assert document_of(found(component)) == {
        "component": "PyTorch", "required": "1.8.0", "found": "1.8.0+cpu", "status": "same",
        "probe": "wheel:torch in image exporter", "purpose": "exports ONNX", "kind": "requirement",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "required", "said"),
    [
        ("python", "3.7.5", ("3.7.5", "same", "python in image exporter")),
        ("python", "3.7.6", ("3.7.5", "deviates", "python in image exporter")),
        ("deb:libc6", "2.31", ("2.31", "same", "deb:libc6 in image exporter")),
        ("deb:absent", "2.31", ("", "absent", "deb:absent in image exporter")),
        ("wheel:torch", "not pinned by the guide", ("1.8.0+cpu", "same", "wheel:torch in image exporter")),
        ("wheel:torch", "1.8", ("1.8.0+cpu", "deviates", "wheel:torch in image exporter")),
        ("found:cann", "6.3.RC1", ("6.3.rc1", "same", "found:cann in image exporter")),
        ("found:cann", "not pinned by the guide", ("6.3.rc1", "same", "found:cann in image exporter")),
        ("found:cann", "6.3.RC2", ("6.3.rc1", "deviates", "found:cann in image exporter")),
    ],
)
def test_a_version_is_looked_up_where_its_source_says(source, required, said):
    assert outcome(Component("x", required, "exporter", source, "")) == said


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ({"driver": "23.0.rc1"}, ("23.0.rc1", "same", "host:driver in this host")),
        ({"driver": "22.0.4"}, ("22.0.4", "deviates", "host:driver in this host")),
        ({}, ("", "absent", "host:driver in this host")),
    ],
)
def test_the_hosts_own_software_is_looked_up_in_the_host(host, said):
    assert outcome(Component("driver", "23.0.RC1", "host", "host:driver", ""), host=host) == said


def test_a_substitute_is_named_and_always_deviates_and_yields_to_the_component_itself():
    component = Component("Kaldi", "Kaldi 5.5", "features", "found:kaldi", "", "kernels", "wheel:torch")
    assert outcome(component, image="features", found={}) == (
        "kernels 1.8.0+cpu", "deviates", "wheel:torch in image features")  # fmt: skip
    assert outcome(component, image="features") == ("Kaldi 5.5", "same", "found:kaldi in image features")
    assert outcome(component, image="features", found={}, wheels={}) == (
        "", "absent", "wheel:torch in image features")  # fmt: skip


def test_a_role_is_looked_for_in_its_pinned_image_where_that_was_used():
    component = Component("Kaldi", "Kaldi 5.5", "features", "found:kaldi", "")
    assert outcome(component, image="kaldi") == ("Kaldi 5.5", "same", "found:kaldi in image kaldi")
    assert outcome(component, image="base") == ("", "absent", "found:kaldi in image features")


ROWS = (
    Component("driver", "22.0.4", "host", "host:driver", ""),
    Component("PyTorch", "1.8", "exporter", "wheel:torch", ""),
    Component("pyyaml", "6.0", "exporter", "wheel:pyyaml", "", kind="requirement"),
    Component("Python", "3.7.5", "exporter", "python", ""),
)


def rows():
    return compare(ROWS, {"exporter": msgspec.convert(PROBE, ProbeFile)}, {})


def test_what_deviates_is_told_in_words_and_requirements_and_exceptions_are_not():
    assert deviations(rows(), lambda row: False) == [
        "driver: required 22.0.4, found nothing", "PyTorch: required 1.8, found 1.8.0+cpu"
    ]  # fmt: skip
    assert deviations(rows(), lambda row: row.component == "driver") == ["PyTorch: required 1.8, found 1.8.0+cpu"]


def test_the_table_is_set_in_columns_with_foreign_text_escaped():
    bad = compare(ROWS[1:2], {"exporter": msgspec.convert({**PROBE, "wheels": {"torch": "\x1b[2J"}}, ProbeFile)}, {})
    assert describe((*rows(), *bad)).splitlines() == [
        "The compatibility table",
        "component  required  found      status    probe",
        "driver     22.0.4    -          absent    host:driver in this host",
        "PyTorch    1.8       1.8.0+cpu  deviates  wheel:torch in image exporter",
        "Python     3.7.5     3.7.5      same      python in image exporter",
        "PyTorch    1.8       \\x1b[2J    deviates  wheel:torch in image exporter",
        "",
        "The guide's requirements.txt",
        "component  required  found  status  probe",
        "pyyaml     6.0       -      absent  wheel:pyyaml in image exporter",
    ]


@pytest.mark.parametrize("text", ["", '[[component]]\nname = "x"\n', "[[component]]\nodd = 1\n"])
def test_a_damaged_table_of_components_is_refused_by_name(text: str, tmp_path: Path):
    (tmp_path / "compatibility.toml").write_text(text)
    with pytest.raises(UsageError, match=r"^conf/compatibility\.toml is not a list of components: ."):
        load_components(tmp_path)
