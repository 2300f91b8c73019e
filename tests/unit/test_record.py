"""Reading a record: what a run writes comes back to the byte, and whatever is wrong with it is named by its place."""

import json
import math
import os
from pathlib import Path

import pytest
from _record_cases import _stage, demo_record, published_record
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotVerify, NotPlain, VerificationFailed
from repro.base.files import pretty_json
from repro.record import Record, identity_of, load_record, read_record, record_bytes
from repro.record.schema import PATH, _plain, schema_bytes

HOSTILE = [
    None, True, 0, -1, 2**53, 2**70, 10**300, 1.5, -0.0, math.nan, math.inf, 1e300, "", "a", "\x1b[31mred", "\u202e",
    "\ud800", "0" * 64, "../../etc/passwd", "x" * 5000, [], [[]], {}, {"": {}}, [None],
]  # fmt: skip


def places(value, path=()):
    """The path of everything in a document, containers too."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


DOCUMENTS = [demo_record(), published_record()]
PLACES = [(which, path) for which, document in enumerate(DOCUMENTS) for path in places(document) if path]


def changed(which, path, change):
    document = json.loads(json.dumps(DOCUMENTS[which]))
    at = document
    for step in path[:-1]:
        at = at[step]
    change(at, path[-1])
    return document


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_run_writes_comes_back_to_the_byte(document):
    data = pretty_json(document)
    record = read_record(data)
    assert record_bytes(record) == data
    assert record.identity == identity_of(record)


def test_the_published_schema_is_made_of_the_types():
    assert PATH.read_bytes() == schema_bytes(), "run: python -m repro.record.schema"


def test_descriptions_alone_are_put_on_one_line_wherever_they_stand():
    made = {"anyOf": [{"description": "one\n    two", "pattern": "a  b"}], "title": "c  d"}
    assert _plain(made) == {"anyOf": [{"description": "one two", "pattern": "a  b"}], "title": "c  d"}


@settings(max_examples=400)
@given(place=st.sampled_from(PLACES), value=st.sampled_from(HOSTILE))
def test_a_hostile_value_is_read_to_an_equal_record_or_named(place, value):
    def put(at, key):
        at[key] = value

    judge(json.dumps(changed(*place, put)).encode())


@settings(max_examples=200)
@given(place=st.sampled_from(PLACES), name=st.text(max_size=20))
def test_a_missing_or_unknown_member_is_read_to_an_equal_record_or_named(place, name):
    def drop(at, key):
        del at[key]

    def add(at, _):
        if isinstance(at, dict):
            at[name] = at.get(name, {})

    judge(json.dumps(changed(*place, drop)).encode())
    judge(json.dumps(changed(*place, add)).encode())


def judge(data):
    try:
        record = read_record(data)
    except VerificationFailed as error:
        assert error.message.startswith("record.json: ")
        assert error.message.isprintable()
        return
    assert json.loads(record_bytes(record)) == json.loads(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "$: Object missing required field `schema`"),
        (b"[]", "$: Expected `object`, got `array`"),
        (b'{"schema":"lstm-ctc-bundle/record","version":2}', "$.version: a record of version 2; this program reads"),
        (b'{"schema":"another","version":1}', "$.schema: Invalid enum value 'another'"),
        (b"{", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_what_is_no_record_is_named(data, message):
    with pytest.raises(VerificationFailed) as caught:
        read_record(data, "the record of run 1")
    assert caught.value.message.startswith(f"the record of run 1: {message}")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("stages", 1, "outputs", "digest"), "abc", "$.stages[1].outputs.digest"),
        (("stages", 1, "outputs", "files", "score.json", "size_bytes"), "1",
         "$.stages[1].outputs.files['score.json'].size_bytes"),
        (("stages", 1, "outputs", "files", "../x"), {"sha256": "0" * 64, "size_bytes": 1},
         "$.stages[1].outputs.files['../x']"),
        (("stages", 2, "inputs", "corpus", "from"), 7, "$.stages[2].inputs.corpus.from"),
        (("images", "base"), "latest", "$.images.base"),
        (("results", 0, "published", "invented"), 1, "$.results[0].published"),
        (("request", "batch_sizes"), [8, 8], "$.request"),
        (("observations", "started_at"), "2026-02-30T00:00:00Z", "$.observations"),
    ],
)  # fmt: skip
def test_the_place_of_what_is_wrong_is_named(path, value, place):
    def put(at, key):
        at[key] = value

    with pytest.raises(VerificationFailed) as caught:
        read_record(json.dumps(changed(0, path, put)).encode())
    assert caught.value.message.startswith(f"record.json: {place}: ")


def test_two_stages_of_one_key_are_refused():
    document = demo_record()
    document["stages"].append(document["stages"][0])
    with pytest.raises(VerificationFailed, match="the stage corpus stands twice"):
        read_record(json.dumps(document).encode())


def test_a_record_is_not_read_through_a_link_and_absence_is_told_apart(tmp_path: Path):
    (tmp_path / "there.json").write_bytes(pretty_json(demo_record()))
    (tmp_path / "record.json").symlink_to(tmp_path / "there.json")
    assert isinstance(load_record(tmp_path / "there.json"), Record)
    with pytest.raises(NotPlain):
        load_record(tmp_path / "record.json")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotPlain):
        load_record(tmp_path / "fifo")
    with pytest.raises(CouldNotVerify, match=f"{tmp_path}/absent cannot be read: No such file or directory"):
        load_record(tmp_path / "absent")
    (tmp_path / "empty.json").write_bytes(b"{}")
    with pytest.raises(VerificationFailed, match=f"^{tmp_path}/empty.json: "):
        load_record(tmp_path / "empty.json")


def test_a_record_of_several_sizes_in_which_each_ran_the_exported_graph_is_refused_with_the_place():
    document = demo_record()
    document["stages"] += [_stage("compare", 8), _stage("compare", 64)]
    document["stages"][-2]["inputs"] = {"onnx": {"from": "export", "digest": "d" * 64}}
    read_record(json.dumps(document).encode())
    document["stages"][-1]["inputs"] = {"onnx": {"from": "export", "digest": "d" * 64}}
    with pytest.raises(VerificationFailed) as caught:
        read_record(json.dumps(document).encode())
    assert caught.value.message.startswith("record.json: $.stages[4].inputs.onnx: ")
    assert "compare@8 alone" in caught.value.message and "the repository that wrote it" in caught.value.hint
    document["request"]["batch_sizes"] = [64]  # of one size: the same as ever
    del document["stages"][-2]
    read_record(json.dumps(document).encode())
