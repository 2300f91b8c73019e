"""Files of every format at the edge of what is taken: read as they are, or refused by file, place and number."""

import io
import os
import pickle
import stat
import struct
import zipfile

import numpy as np
import pytest
from _stage_cases import refused
from hypothesis import given
from hypothesis import strategies as st

from stages import corpus
from stages.formats import audio, audio_index, bins, kaldi_io, labels, matching, onnx_tensors, pickled_tensors
from stages.formats import source as speech_source

NAMES = st.text("ABCxyz019_-/é", min_size=1, max_size=12)


# --- Speech data


def zipped(path, members):
    """An archive of (name or ZipInfo, bytes); the bytes deflated where the member says so."""
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members:
            archive.writestr(member, data)
    return str(path)


def member(name, kind=0, method=zipfile.ZIP_STORED):
    result = zipfile.ZipInfo(name)
    result.external_attr = (kind | 0o644) << 16
    result.compress_type = method
    return result


BOUNDS = {"MAX_FILE_BYTES": 100, "MAX_MEMBERS": 3, "MAX_TOTAL_BYTES": 250, "MAX_RATIO": 5}
MANY = [("TRAIN/" + "abcd"[number], b"x") for number in range(4)]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a", b"1" * 100), ("b", b"2" * 100), ("c", b"3" * 50)], ()),
        ([("a", b"1" * 101)], ("member 'a' has 101 bytes, over 100",)),
        ([("a", b"1" * 100), ("b", b"2" * 100), ("c", b"3" * 51)], ("251 bytes unpacked, over 250",)),
        (MANY[:3], ()),
        (MANY, ("4 members, over 3",)),
        ([(member("a", method=zipfile.ZIP_DEFLATED), bytes(100))], ()),
        ([(member(name, method=zipfile.ZIP_DEFLATED), bytes(51)) for name in "ab"], ("stand for 102, over 5 times",)),
        ([(member("d", stat.S_IFREG), b"x"), (member("e/", stat.S_IFDIR), b"")], ()),
        ([(member("TRAIN/l", stat.S_IFLNK), b"x")], ("'TRAIN/l' is a symbolic link",)),
        ([(member("TRAIN/p", stat.S_IFIFO), b"x")], ("'TRAIN/p' is not a plain file",)),
        ([(member("m", method=zipfile.ZIP_BZIP2), b"x")], ("'m' is packed by method 12",)),
        ([("A/b", b""), ("a/B", b"")], ("'A/b' and 'a/B' are one name",)),
        ([("A/b;1", b""), ("A/b;12", b"")], ("'A/b;1' and 'A/b;12' are one name",)),
    ],
)
def test_an_archive_is_taken_up_to_its_bounds_and_refused_one_beyond_by_what_and_how_much(
    tmp_path, monkeypatch, members, told
):
    for name, value in BOUNDS.items():
        monkeypatch.setattr(speech_source, name, value)
    path = zipped(tmp_path / "d.zip", members)
    if told:
        with refused(path, *told):
            speech_source.open_source(path)
        return
    source = speech_source.open_source(path)
    found = {(folder + "/" if folder else "") + name for folder, names in source._files.items() for name in names}
    wanted = {each if isinstance(each, str) else each.filename: data for each, data in members}
    assert found == {name for name in wanted if not name.endswith("/")}
    assert {name: source.read(name) for name in found} == {name: wanted[name] for name in found}


@pytest.mark.parametrize("make", [zipfile.ZipFile, None])
def test_a_folder_and_an_archive_of_the_same_files_answer_alike(tmp_path, make):
    names = ["TRAIN/DR1/A/SX1.WAV", "TRAIN/DR1/A/SX1.PHN", "TRAIN/DR1/B/SX2.WAV", "TRAIN/x", "TEST/y", "TEST/.hidden",
             "TEST/__MACOSX/z", "TRAIN/DR1/._SX1.WAV", "top"]  # fmt: skip
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    where = str(tmp_path / "in") if make is None else zipped(tmp_path / "d.zip", [(n, n.encode()) for n in names])
    source = speech_source.open_source(where)
    assert source.path == where
    assert source.folders() == source.folders_and_links() == ["TEST", "TRAIN"]
    assert (source.folders("TRAIN"), source.folders("TRAIN/DR1")) == (["DR1"], ["A", "B"])
    assert dict(source.walk("TRAIN")).items() >= {
        "TRAIN": ["x"], "TRAIN/DR1/A": ["SX1.PHN", "SX1.WAV"], "TRAIN/DR1/B": ["SX2.WAV"],
    }.items()  # fmt: skip
    assert [folder for folder, files in source.walk("TRAIN") if files] == ["TRAIN", "TRAIN/DR1/A", "TRAIN/DR1/B"]
    assert source.files_in("TRAIN/DR1/A") == ["SX1.PHN", "SX1.WAV"]
    assert source.read("TRAIN/DR1/B/SX2.WAV") == b"TRAIN/DR1/B/SX2.WAV"
    assert speech_source.find_corpus(source) == ("", "TRAIN", "TEST")
    with refused("cannot read TRAIN/absent: "):
        source.read("TRAIN/absent")


@pytest.mark.parametrize(
    ("name", "told"),
    [("", "''"), ("/a", "'/a'"), ("c:x", "'c:x'"), ("a\\b", r"'a\\b'"), ("a/../b", "'a/../b'"), ("a/./b", "'a/./b'"),
     ("a//b", "'a//b'"), ("a/", "'a/'"), ("a\x7f", r"'a\x7f'"), ("a\ud800", r"'a\ud800'")],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused_with_its_place(name, told):
    with refused("the place", told):
        speech_source.check_name(name, "the place")
    speech_source.check_name("a..b/.c/d c:x", "x")


@pytest.mark.parametrize(
    ("what", "told"), [("pipe", "pipe is not a plain file"), ("large", "large has 11 bytes, over 10"), ("link", "link")]
)
def test_a_file_that_became_another_kind_since_it_was_listed_is_refused_by_its_own_name(
    tmp_path, monkeypatch, what, told
):
    monkeypatch.setattr(speech_source, "MAX_FILE_BYTES", 10)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"1" * 11)
    (tmp_path / "fits").write_bytes(b"1" * 10)
    (tmp_path / "link").symlink_to("fits")
    source = speech_source.open_source(str(tmp_path))
    assert source.read("fits") == b"1" * 10
    with refused(told) as error:
        source.read(what)
    assert str(tmp_path) not in error.value.message, "it may end up in a result"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["TRAIN/a", "train/b", "TEST/c"], ["both TRAIN and train", "''"]),
        (["x/TRAIN/a", "x/TEST/b", "x/Test/c"], ["both TEST and Test", "'x/'"]),
        (["x/TRAIN/a", "x/TEST/b", "y/train/a", "y/test/b"], ["several folders: x/, y/"]),
        (["x/TRAIN/a", "TEST/b"], ["no folders TRAIN and TEST"]),
        (["x/TRAIN/a", "x/test/b", "y/TRAIN/c"], None),
    ],
)
def test_train_and_test_lie_in_one_place_alone(tmp_path, names, told):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = speech_source.open_source(str(tmp_path))
    if told is None:
        assert speech_source.find_corpus(source) == ("x/", "TRAIN", "test")
    else:
        with refused(tmp_path, *told):
            speech_source.find_corpus(source)


def test_an_archive_that_was_replaced_is_not_read_by_another_process(tmp_path):
    path = zipped(tmp_path / "d.zip", [("a", b"1"), ("b", b"2")])
    source = speech_source.open_source(path)
    source._process = -1  # as after a fork
    assert source.read("a") == b"1" and source._process == os.getpid()
    os.replace(zipped(tmp_path / "e.zip", [("a", b"3"), ("b", b"4")]), path)
    assert source.read("b") == b"2", "the file that was checked is still open"
    source._process = -1
    with refused(path, "was replaced"):
        source.read("a")
    os.unlink(path)
    with refused(path, "No such file"):
        source.read("a")


# --- Lists and labels


@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["sphere", "riff"]), st.integers(1), st.integers(0))))
def test_an_audio_index_reads_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("index") / "audio.tsv"
    path.write_text("\n".join("\t".join(map(str, row)) + "\n" for row in rows), "utf-8")
    assert list(audio_index.read_audio_index(str(path))) == rows


LINES = {
    "a\tb\tsphere\t16000": audio_index.read_audio_index, "a\tb\tsphere\tx\t1": audio_index.read_audio_index,
    "a\tb\tsphere\t1\t1\t1": audio_index.read_audio_index,
    "a\tb": labels.read_phone_map, "a\tb\tc\td": labels.read_phone_map, "p\tq\tr\np\tq\tr": labels.read_phone_map,
}  # fmt: skip


@pytest.mark.parametrize("text", LINES)
def test_a_line_of_another_kind_is_refused_by_file_and_text(tmp_path, text):
    (tmp_path / "list").write_text(text)
    with refused(tmp_path / "list", repr(text.splitlines()[-1])):
        list(LINES[text](str(tmp_path / "list")))


@pytest.mark.parametrize("read", [audio_index.read_audio_index, labels.read_lines, labels.read_table,
                                  labels.read_phone_map, labels.read_speakers])  # fmt: skip
@pytest.mark.parametrize(("data", "told"), [(None, "No such file"), (b"\xff\n", "utf-8")])
def test_a_list_that_cannot_be_read_is_refused_by_path_and_reason(tmp_path, read, data, told):
    path = tmp_path / "list"
    if data is not None:
        path.write_bytes(data)
    with refused(f"cannot read {path}: ", told):
        list(read(str(path)))


def test_lists_are_read_by_line_with_blank_ones_left_out(tmp_path):
    path = tmp_path / "list"
    path.write_text("\n  u1 aa  b\n\n\nu2\n", "utf-8")
    assert labels.read_lines(str(path)) == ["u1 aa  b", "u2"]
    assert labels.read_table(str(path)) == [("u1", ["aa", "b"]), ("u2", [])]
    path.write_text("u1 aa\nu1 b\n")
    with refused(path, "twice"):
        labels.read_table(str(path))
    path.write_text("fabc0\n MDEF1 \n")
    assert labels.read_speakers(str(path)) == {"FABC0", "MDEF1"}
    for text in ("fabc0\nFABC0\n", "fabc0 mdef1\n"):
        path.write_text(text)
        with refused(path):
            labels.read_speakers(str(path))
    path.write_text("aa\taa\taa\nq\nax-h\tax\tah\n")
    folding = labels.read_phone_map(str(path))
    assert folding == {"aa": "aa", "q": "", "ax-h": "ah"}
    assert labels.fold(["q", "ax-h", "aa", "aa"], folding, "n") == ["ah", "aa", "aa"]
    with refused("n: ", "'x', 'z'"):
        labels.fold(["z", "aa", "x", "z"], folding, "n")


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"0 10 h#\n\n 10 20 sh \n", ["h#", "sh"]), (b"0 0 a", ["a"]), (b"-1 10 h#\n", None), (b"0 -1 h#\n", None),
     (b"0 10\n", None), (b"0 x h#\n", None), (b"0 1 a b\n", None), (b"0 1 \xff\n", None), (b"", [])],
)  # fmt: skip
def test_label_files_are_lines_of_start_end_label(data, found):
    if found is None:
        with refused("X.PHN"):
            labels.third_column(data, "X.PHN")
    else:
        assert labels.third_column(data, "X.PHN") == found


@given(st.sets(NAMES, max_size=8), st.sets(NAMES, max_size=8))
def test_two_sorted_streams_are_joined_and_either_may_lack_an_utterance(left, right):
    features = [(name, name + "!") for name in sorted(left)]
    phones = [(name, [name]) for name in sorted(right)]
    assert sorted(matching.matched(features, phones, "ark", "list")) == [
        (name, name + "!" if name in left else None, [name] if name in right else None)
        for name in sorted(left | right)
    ]  # fmt: skip


@pytest.mark.parametrize(("names", "told"), [("abb", "b stands there twice"), ("acb", "b after c, not sorted")])
def test_a_stream_that_is_not_sorted_is_refused_by_its_path(names, told):
    for arguments in (([(n, 1) for n in names], [("z", [])]), ([("z", 1)], [(n, []) for n in names])):
        with refused("bad" if len(arguments[0]) > 1 else "worse", told):
            list(matching.matched(*arguments, "bad", "worse"))


# --- Kaldi's text, batches


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_text_matrix_reads_back(tmp_path_factory, rows, columns, data):
    numbers = st.floats(-(2**15), 2**15, width=16)
    values = np.array(data.draw(st.lists(st.lists(numbers, min_size=columns, max_size=columns),
                                         min_size=rows, max_size=rows)), np.float32)  # fmt: skip
    path = tmp_path_factory.mktemp("text") / "m"
    with open(path, "w") as stream:
        kaldi_io.write_text_matrix(stream, values)
    found = kaldi_io.read_text_matrix(str(path))
    assert (found.shape, found.dtype) == (values.shape, np.float64)
    assert found == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "told"),
    [("[ 1 2", "no brackets"), ("1 2 ]", "no brackets"), ("[ ]", ": "), ("[ 1\n 2 3 ]", ": "), ("[ x ]", "'x'"),
     (None, "No such file")],
)  # fmt: skip
def test_a_text_matrix_that_is_none_is_refused_by_path_and_reason(tmp_path, text, told):
    if text is not None:
        (tmp_path / "m").write_text(text)
    with refused(tmp_path / "m", told) as error:
        kaldi_io.read_text_matrix(str(tmp_path / "m"))
    assert not error.value.message.endswith("None")


@given(st.integers(1, 5), st.integers(0, 17))
def test_a_batch_s_utterances_are_its_own(batch_size, count):
    placed = [bins.Placed(f"u{n}", n // batch_size, n % batch_size, 2, 1) for n in range(count)]
    manifest = bins.Manifest(batch_size, 390, 243, "dev", count // batch_size, int(count % batch_size > 0), placed, [])
    for number in range(count // batch_size + 2):
        assert manifest.of_batch(number) == [each for each in placed if each.batch == number]


@pytest.mark.parametrize(("stray", "told"), [("inputs_1.npy", 2), ("inputs_9.bin", 2), ("notes.txt", None)])
def test_only_input_files_count_as_such(tmp_path, stray, told):
    manifest = bins.Manifest(1, 390, 243, "dev", 1, 0, [], [])
    (tmp_path / "bins").mkdir()
    for name in ("inputs_0.bin", stray):
        (tmp_path / "bins" / name).write_bytes(b"")
    if told is None:
        (batch,) = bins.list_batches(str(tmp_path), manifest)
        assert (batch.source, batch.folder) == (str(tmp_path / "bins" / "inputs_0.bin"), "result")
    else:
        with refused(tmp_path / "bins", "holds 2 input files", "says 1", stray):
            bins.list_batches(str(tmp_path), manifest)


def test_a_batch_that_cannot_be_read_is_refused_by_path_and_sizes(tmp_path):
    path = tmp_path / "inputs_0.bin"
    batch = bins.Batch(str(path), "result")
    with refused(f"cannot read {path}", "No such file"):
        bins.read_batch(batch, 1)
    path.write_bytes(bytes(8))
    with refused(path, "arg0 tensorsize: 379080 filesize: 8 not match"):
        bins.read_batch(batch, 1)
    with refused(f"cannot read {tmp_path}/result/inputs_0_0.npy", "No such file"):
        bins.read_output(str(tmp_path), batch, 1)
    values = np.random.RandomState(1).standard_normal((1, 390, 243)).astype("<f4")
    path.write_bytes(values.tobytes())
    found = bins.read_batch(batch, 1)
    assert found.tobytes() == values.tobytes() and found.shape == (1, 390, 243)


def test_an_output_is_written_as_little_endian_float32_in_one_piece(tmp_path):
    batch = bins.Batch("x/inputs_3.bin", "tail")
    bins.make_output_folders(str(tmp_path), [batch])
    assert sorted(os.listdir(tmp_path)) == ["result", "tail"]
    values = np.arange(195 * 41 * 2, dtype=np.float64).reshape(195, 41, 2).transpose(0, 2, 1)
    path = bins.write_output(str(tmp_path), batch, values)
    assert path == str(tmp_path / "tail" / "inputs_3_0.npy") and os.listdir(tmp_path / "tail") == ["inputs_3_0.npy"]
    found = np.load(path)
    assert found.dtype.str == "<f4" and found.flags.c_contiguous and np.array_equal(found, values)


def test_a_summary_holds_ais_bench_s_numbers_of_both_copies_too():
    nothing = {"min": 0.0, "max": 0.0, "mean": 0.0, "median": 0.0, "percentile(99%)": 0.0, "count": 0}
    assert bins.times_info([]) == nothing
    assert bins.summary(["a"], ["b"], [4.0], 8, ["w", "x"], streams=3) == {
        "filesinfo": {"0": {"infiles": ["a"], "outfiles": ["b"]}},
        "args": ["w", "x"],
        "NPU_compute_time": dict(dict.fromkeys(nothing, 4.0), count=1),
        "H2D_latency": nothing,
        "D2H_latency": nothing,
        "throughput": 6000.0,
        "npu_compute_time_list": [4.0],
        "pid": os.getpid(),
        "streams": 3,
    }
    assert bins.summary([], [], [], 8, [])["throughput"] == 0.0


# --- Weights


def varint(value):
    more = value >> 7
    return bytes([value & 0x7F | (0x80 if more else 0)]) + (varint(more) if more else b"")


def field(number, kind, value):
    """A field of protobuf's wire format: kind 0 a number, 2 bytes, 1 and 5 eight and four bytes."""
    head = varint(number << 3 | kind)
    return head + {0: varint, 2: lambda data: varint(len(data)) + data}.get(kind, bytes)(value)


NOISE = st.lists(
    st.one_of(
        st.tuples(st.integers(20, 9999), st.just(0), st.integers(0, 2**63)),
        st.tuples(st.integers(20, 9999), st.just(1), st.binary(min_size=8, max_size=8)),
        st.tuples(st.integers(20, 9999), st.just(2), st.binary(max_size=200)),
        st.tuples(st.integers(20, 9999), st.just(5), st.binary(min_size=4, max_size=4)),
    ).map(lambda each: field(*each)),
    max_size=3,
).map(b"".join)


@given(st.lists(st.tuples(NAMES, st.integers(0, 300), st.binary(max_size=300), NOISE, NOISE, NOISE), max_size=4))
def test_tensors_are_found_among_whatever_else_a_model_holds(given_tensors):
    model = b""
    for name, kind, raw, *noise in given_tensors:
        tensor = noise[0] + field(2, 0, kind) + field(9, 2, raw) + field(8, 2, name.encode())
        model += noise[1] + field(7, 2, noise[2] + field(5, 2, tensor) + field(1, 2, b"a node"))
    found = onnx_tensors.tensors(model)
    assert [(each.name, each.data_type, model[each.start : each.stop]) for each in found] == [
        (name, kind, raw) for name, kind, raw, *_ in given_tensors
    ]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (field(7, 2, field(5, 2, field(8, 2, b"w"))), "tensor 'w' holds no raw data"),
        (field(7, 2, b"x")[:-1] + b"", "ends before byte 3"),
        (b"\x3b", "not protobuf at byte 1"),
        (b"\x08" + b"\xff" * 9 + b"\x80", "not protobuf at byte 11"),
        (b"\x08\x80", "not protobuf at byte 2"),
        (field(1, 1, bytes(7)), "ends before byte 9"),
        (field(1, 5, bytes(3)), "ends before byte 5"),
    ],
)
def test_what_is_no_protobuf_is_refused_by_its_place(data, told):
    with pytest.raises(ValueError, match=told):
        onnx_tensors.tensors(data)


MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def legacy(package, storages, keys=None, *, magic=MAGIC, protocol=PROTOCOL, little=True):
    """A file of PyTorch before 1.6: pickles behind each other, then each storage's length and values."""
    parts = [pickle.dumps(each, 2) for each in (magic, protocol, {"little_endian": little})]
    parts += [package, pickle.dumps(sorted(storages) if keys is None else keys, 2)]
    parts += [struct.pack("<q", len(values)) + values.tobytes() for _, values in sorted(storages.items())]
    return b"".join(parts)


def storage(key, count, kind=b"FloatStorage", view=None):
    words = [b"X" + struct.pack("<I", len(each)) + each for each in (b"storage", key.encode(), b"cpu")]
    more = b"N" if view is None else b"(X\x01\x00\x00\x00vK" + bytes([view[0]]) + b"K" + bytes([view[1]]) + b"t"
    return b"(" + words[0] + b"ctorch\n" + kind + b"\n" + words[1] + words[2] + b"K" + bytes([count]) + more + b"tQ"


def tensor(stored, offset, size, stride):
    numbers = lambda values: b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"  # noqa: E731
    place = b"K" + bytes([offset]) + numbers(size) + numbers(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + place + b"tR"


def listed(*tensors):
    return b"\x80\x02](" + b"".join(tensors) + b"e."


VALUES = np.arange(6, dtype="<f4")


def test_a_file_of_the_older_kind_holds_views_of_views():
    package = listed(
        tensor(storage("7", 6), 0, (2, 3), (3, 1)),
        tensor(storage("7", 6), 1, (2, 2), (1, 3)),
        tensor(storage("7", 6, view=(2, 3)), 1, (2,), (1,)),
        tensor(storage("8", 2, b"HalfStorage"), 0, (2,), (1,)),
    )
    data = legacy(package, {"7": VALUES, "8": np.array([0.5, 2], "<f2")})
    found = pickled_tensors.read(data)
    assert [each.tolist() for each in found] == [[[0, 1, 2], [3, 4, 5]], [[1, 4], [2, 5]], [3, 4], [0.5, 2]]
    assert [str(each.dtype) for each in found] == ["float32"] * 3 + ["float16"]


SMALL = listed(tensor(storage("7", 6), 0, (6,), (1,)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (legacy(SMALL, {"7": VALUES}, magic=1), "not one that PyTorch wrote"),
        (legacy(SMALL, {"7": VALUES}, protocol=1000), "not one that PyTorch wrote"),
        (legacy(SMALL, {"7": VALUES}, little=False), "big-endian"),
        (legacy(SMALL, {"7": VALUES}, little=1), "big-endian"),
        (legacy(SMALL, {"7": VALUES}, ["7", "8"]), "list of storages"),
        (legacy(SMALL, {"7": VALUES}, "7"), "list of storages"),
        (legacy(SMALL, {"7": VALUES[:5]}), "storage 7"),
        (legacy(SMALL, {"7": VALUES})[:-1], "storage 7"),
        (legacy(listed(tensor(storage("7", 6), 1, (6,), (1,))), {"7": VALUES}), "shape (6,)"),
        (legacy(listed(tensor(storage("7", 6, view=(4, 3)), 0, (1,), (1,))), {"7": VALUES}), "beyond its storage"),
        (legacy(listed(tensor(storage("7", 255), 0, (1,), (1,))), {})[:200], "storage 7 would be larger"),
        (b"\x80\x02" + storage("7", 6) + b".", "a storage stands where none belongs"),
        (b"text", "starts with b'text'"),
    ],
)
def test_a_file_of_the_older_kind_that_is_broken_is_refused_by_what(data, told):
    with pytest.raises(pickled_tensors.CheckpointError) as error:
        pickled_tensors.read(data)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"a/byteorder": b"little"}, None),
        ({"a/byteorder": b"big"}, "big-endian"),
        ({"a/constants.pkl": b""}, "TorchScript"),
        ({"b/data.pkl": b""}, "no data.pkl"),
        ({"a/b/data.pkl": b""}, None),
        ({"a/data/7": bytes(23)}, "a/data/7 has 23 bytes, not 24"),
        ({"a/data/7": None}, "a/data/7 is missing"),
        ({"a/data.pkl": listed(tensor(storage("7", 6), 0, (1,), (1,)),
                               tensor(storage("7", 6, b"IntStorage"), 0, (1,), (1,)))}, "storage 7 is used with two"),
    ],
)  # fmt: skip
def test_an_archive_of_weights_is_read_or_refused_by_what(tmp_path, change, told):
    members = {"a/data.pkl": SMALL, "a/data/7": VALUES.tobytes(), **change}
    path = zipped(tmp_path / "a.pth", [(name, data) for name, data in members.items() if data is not None])
    with open(path, "rb") as stream:
        data = stream.read()
    if told is None:
        assert [each.tolist() for each in pickled_tensors.read(data)] == [VALUES.tolist()]
    else:
        with pytest.raises(pickled_tensors.CheckpointError) as error:
            pickled_tensors.read(data)
        assert told in str(error.value)


@pytest.mark.parametrize("pid", ["(X\x01\x00\x00\x00xt", "N", "(X\x07\x00\x00\x00storageK\x01K\x01K\x01K\x01t"])
def test_what_is_no_storage_is_refused(pid):
    with pytest.raises(pickled_tensors.CheckpointError, match="not a tensor's storage"):
        pickled_tensors._unpickle(io.BytesIO(b"\x80\x02" + pid.encode() + b"Q."), None)


# --- Waves and the corpus


def test_a_wave_of_neither_kind_or_without_samples_is_refused_by_name():
    for data, told in ((b"RIFF\0\0\0\0WAVX", "neither"), (b"RIFF\4\0\0\0WAVE", "no samples"), (b"", "neither"),
                       (b"NIST_1A\n   1024\n", "no end_head"), (b"NIST_1A\n   x\n", "invalid literal")):  # fmt: skip
        with refused("X.WAV: ", told):
            audio.parse(data, "X.WAV")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["SX1.WAV", "SX1.PHN", "SX1.WRD", "SA1.WAV", "notes.txt"], ("SX1.WAV", None, "SX1.PHN", "SX1.WRD")),
        (["sx1.wav;1", "SX1.WAV.wav", "sx1.phn"], ("sx1.wav;1", "SX1.WAV.wav", "sx1.phn", None)),
        (["SX1.PHN", "SX1.TXT"], (None, None, "SX1.PHN", None)),
    ],
)
def test_an_utterance_is_found_by_its_wave_or_its_labels(names, found):
    (utterance,) = corpus.in_folder(None, "T/DR1/fabc0", names)
    assert utterance[3:] == tuple(name and "T/DR1/fabc0/" + name for name in found)
    assert (utterance.speaker, utterance.identifier) == ("FABC0", "FABC0_SX1")


@pytest.mark.parametrize(
    ("counts", "deviations"),
    [((1, 2), []), ((0, 2), ["dev: 0 speakers, TIMIT has 1"]), ((1, 3), ["dev: 3 utterances, TIMIT has 2"]),
     ((2, 1), ["dev: 2 speakers, TIMIT has 1", "dev: 1 utterances, TIMIT has 2"])],
)  # fmt: skip
def test_each_count_that_is_not_timit_s_is_named(counts, deviations):
    timit = {split: {"utterances": 2, "speakers": 1} for split in corpus.SPLITS}
    found = {**timit, "dev": {"speakers": counts[0], "utterances": counts[1], "phones": 9}}
    assert corpus.deviations_from(timit, found) == deviations


@pytest.mark.parametrize("missing", ["wave", "phn", "wrd"])
def test_an_utterance_without_one_of_its_files_is_refused_by_its_place(missing):
    found = corpus.Found("F", "T/F", "SX1", "w", None, "p", "d")._replace(**{missing: None})
    with refused("T/F/SX1", {"wave": ".WAV", "phn": ".PHN", "wrd": ".WRD"}[missing]):
        corpus.read_utterance(None, found, {})
