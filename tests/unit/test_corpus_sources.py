"""Hostile and broken folders and archives: refused as a whole, by name, with nothing written."""

import os
import shutil
import stat
import struct
import zipfile

import numpy as np
import pytest
from _speech_cases import CONF, DEV, TRAIN, riff, run_stage, small_corpus, sphere, write_folder, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import UsageError
from repro.graph.cache import StatCache
from repro.graph.sources import digest_source
from stages import corpus
from stages.formats import audio
from stages.formats import source as speech_source
from stages.shared.stage import StageError


def refused(tmp_path, data, message):
    with pytest.raises(StageError, match=message):
        run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    assert not list((tmp_path / "stages.corpus.out").iterdir())


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "TRAIN/../../evil", "C:/evil", "TRAIN\\evil", "TRAIN//evil", "./evil", "TRAIN/a\nb"],
)
def test_zip_name_that_leads_elsewhere_is_refused(tmp_path, name):
    files = dict(small_corpus(), **{name: b"x"})
    refused(tmp_path, write_zip(tmp_path / "data.zip", files), "the name")
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_link_or_device_is_refused(tmp_path, kind):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    member = zipfile.ZipInfo("TRAIN/DR1/FABC0/SX8.WAV")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    refused(tmp_path, path, "symbolic link" if kind == stat.S_IFLNK else "not a plain file")


def test_encrypted_zip_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    refused(tmp_path, path, "is encrypted")


def test_zip_packed_by_another_method_is_refused(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in small_corpus().items():
            archive.writestr(name, data)
    refused(tmp_path, path, "packed by method 14")


def test_zip_bomb_by_ratio_is_refused(tmp_path):
    files = small_corpus()
    for index in range(3):
        files[f"TRAIN/zeros{index}"] = b"\0" * (30 << 20)
    refused(tmp_path, write_zip(tmp_path / "data.zip", files), "is refused: .* times")


def test_zip_bomb_by_one_members_size_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, speech_source.MAX_FILE_BYTES + 1)
    path.write_bytes(bytes(data))
    refused(tmp_path, path, "is refused: ")


@pytest.mark.parametrize(
    ("bound", "message"), [("MAX_MEMBERS", "9 members"), ("MAX_TOTAL_BYTES", "27228 bytes unpacked")]
)
def test_zip_over_the_bounds_is_refused(tmp_path, monkeypatch, bound, message):
    monkeypatch.setattr(speech_source, bound, 8)
    refused(tmp_path, write_zip(tmp_path / "data.zip", small_corpus()), "is refused: " + message)


def test_zip_with_overlapping_members_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<I", data, second + 42, struct.unpack_from("<I", data, first + 42)[0] + 10)
    path.write_bytes(bytes(data))
    refused(tmp_path, path, "overlaps")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [DEV + ".WAV", DEV + ".wav"])
def test_zip_with_duplicate_or_case_colliding_names_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "data.zip", small_corpus())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    refused(tmp_path, path, "one name, except for case")


def test_folder_with_case_colliding_names_is_refused(tmp_path):
    files = dict(small_corpus(), **{DEV + ".wav": b"x"})
    refused(tmp_path, write_folder(tmp_path / "timit", files), "one name, except for case")


def test_folder_with_a_linked_wave_is_refused(tmp_path):
    folder = write_folder(tmp_path / "timit", small_corpus())
    os.symlink("/etc/passwd", folder / "TRAIN/DR1/FABC0/SX8.WAV")
    refused(tmp_path, folder, "SX8.WAV is a symbolic link")


def test_folder_with_a_linked_folder_is_refused(tmp_path):
    files = small_corpus()
    folder = write_folder(tmp_path / "timit", {name: data for name, data in files.items() if name.startswith("TEST")})
    elsewhere = write_folder(tmp_path / "elsewhere", {name: data for name, data in files.items() if TRAIN in name})
    os.symlink(elsewhere / "TRAIN", folder / "TRAIN")
    refused(tmp_path, folder, "TRAIN is a symbolic link")


def test_folder_of_too_many_files_is_refused_before_they_are_all_listed(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "timit", small_corpus())
    monkeypatch.setattr(speech_source, "MAX_MEMBERS", 2)
    refused(tmp_path, folder, "FAKS0 holds more than 2 files")


def test_tree_of_too_many_or_too_deep_folders_is_refused(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "timit", small_corpus())
    deepest = folder / "TRAIN/DR1/FABC0" / "/".join("abcdefghijklmn")
    deepest.mkdir(parents=True)
    run_stage(corpus, tmp_path, "--data", folder, "--conf", CONF)
    (deepest / "o").mkdir()
    refused(tmp_path, folder, "nested more than 16 deep")
    shutil.rmtree(folder / "TRAIN/DR1/FABC0/a")
    for name in range(5):
        (folder / "TRAIN" / f"EMPTY{name}").mkdir()
    monkeypatch.setattr(speech_source, "MAX_MEMBERS", 5)
    monkeypatch.setattr(speech_source.FolderSource, "_entries", lambda self, name: list(os.scandir(folder / name)))
    refused(tmp_path, folder, "more than 5 folders")


def test_link_put_in_place_of_a_wave_after_the_listing_is_not_followed(tmp_path):
    folder = write_folder(tmp_path / "timit", small_corpus())
    source = speech_source.open_source(str(folder))
    (folder / (DEV + ".WAV")).unlink()
    os.symlink("/etc/passwd", folder / (DEV + ".WAV"))
    with pytest.raises(StageError, match="cannot read"):
        source.read(DEV + ".WAV")


def test_pipe_in_the_folder_is_refused_and_never_waited_for(tmp_path):
    folder = write_folder(tmp_path / "timit", small_corpus())
    os.mkfifo(folder / "TRAIN/DR1/FABC0/SX8.WAV")
    refused(tmp_path, folder, "neither a file nor a folder")
    with pytest.raises(StageError, match="not a plain file"):
        speech_source.open_source(str(folder)).read("TRAIN/DR1/FABC0/SX8.WAV")


def test_name_that_is_no_text_is_refused(tmp_path):
    folder = write_folder(tmp_path / "timit", small_corpus())
    (folder / "TRAIN" / os.fsdecode(b"a\xff.WAV")).write_bytes(b"x")
    refused(tmp_path, folder, "not valid text")


def test_train_and_test_nowhere_or_in_two_folders_are_refused(tmp_path):
    files = small_corpus()
    refused(tmp_path, write_folder(tmp_path / "a", {"x/y/" + k: v for k, v in files.items()}), "no folders TRAIN")
    twice = {top + name: data for top in ("one/", "two/") for name, data in files.items()}
    refused(tmp_path, write_folder(tmp_path / "b", twice), "several folders: one/, two/")
    both = dict(files, **{name.replace("TRAIN", "train"): data for name, data in files.items()})
    refused(tmp_path, write_folder(tmp_path / "c", both), "both TRAIN and train")


def test_absent_data_and_what_is_no_zip_are_refused(tmp_path):
    refused(tmp_path, tmp_path / "absent", "no speech data")
    (tmp_path / "data.zip").write_bytes(b"not a zip")
    refused(tmp_path, tmp_path / "data.zip", "as a zip archive")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The bytes of a small, whole archive, and a path to write broken ones to."""
    path = tmp_path_factory.mktemp("fuzz") / "data.zip"
    write_zip(path, {name: data[:1100] for name, data in small_corpus().items()})
    return path.read_bytes(), path


@settings(max_examples=150)
@given(st.data())
def test_broken_zip_is_refused_and_never_a_crash(packed, data):
    original, path = packed
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(broken[: data.draw(st.integers(len(broken) - 60, len(broken)))]))
    try:
        source = speech_source.open_source(str(path))
        for top in ("TRAIN", "TEST"):
            for folder, names in source.walk(top):
                for name in names:
                    source.read(folder + "/" + name)
    except StageError:
        pass


@settings(max_examples=200)
@given(st.data())
def test_broken_wave_is_refused_and_never_a_crash(data):
    order = data.draw(st.sampled_from(["01", "10"]))
    wave = bytearray(sphere(range(500), order=order) if data.draw(st.booleans()) else riff(range(500)))
    for _ in range(data.draw(st.integers(1, 6))):
        wave[data.draw(st.integers(0, min(len(wave) - 1, 220)))] = data.draw(st.integers(0, 255))
    wave = bytes(wave[: data.draw(st.integers(0, len(wave)))])
    try:
        header, samples = audio.read(wave, "x")
    except StageError:
        return
    assert (len(samples), samples.dtype) == (header.num_samples, "int16")
    if header.container == "sphere":  # whatever libsndfile made of the header, the samples are those that it announces
        order = audio._BYTE_ORDERS[audio._sphere_fields(wave, "x")["sample_byte_format"]]
        kind = "<i2" if order == "LITTLE" else ">i2"
        assert samples.tolist() == np.frombuffer(wave, kind, header.num_samples, int(wave[8:16])).tolist()


def on_a_cd(files):
    """Names as a CD's file system has them where nothing translates them."""
    return {name + ";1": data for name, data in files.items()}


@pytest.mark.parametrize("write", [lambda path, files: write_folder(path, files), write_zip])
def test_versions_behind_the_names_of_a_raw_cd_are_no_part_of_them(tmp_path, write):
    plain = run_stage(corpus, tmp_path, "--data", write_folder(tmp_path / "plain", small_corpus()), "--conf", CONF)
    expected = {path.name: path.read_text() for path in (plain / "dev").iterdir()}
    data = write(tmp_path / "cd", on_a_cd(small_corpus()))
    out = run_stage(corpus, tmp_path, "--data", data, "--conf", CONF)
    found = {path.name: path.read_text().replace(";1", "") for path in (out / "dev").iterdir()}
    assert found == expected
    assert f"\t{DEV}.WAV;1\t" in (out / "dev" / "audio.tsv").read_text()  # read in place, by its own name


@pytest.mark.parametrize("name", [DEV + ".WAV;2", DEV + ".wav;1"])
def test_two_versions_of_a_file_are_refused(tmp_path, name):
    files = dict(small_corpus(), **{DEV + ".WAV;1": b"x", name: b"x"})
    refused(tmp_path, write_folder(tmp_path / "timit", files), "one name, except for case or version")


def beside(folder):
    """Leave beside TRAIN and TEST what is no part of a corpus."""
    (folder / "alias").symlink_to(folder / "TRAIN")
    (folder / "dangling").symlink_to("/nonexistent")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").symlink_to("/etc/hostname")
    (folder / "TRAIN" / ".hidden").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    (folder / "lost+found").mkdir()


@pytest.mark.parametrize("below", ["", "TIMIT/"])
def test_what_lies_beside_train_and_test_is_not_looked_at(tmp_path, monkeypatch, below):
    top = tmp_path / "timit"
    folder = write_folder(top / below, small_corpus())
    beside(folder)
    if below:
        (top / "timit").symlink_to("TIMIT")
        (top / "lost+found").mkdir()
    entries = speech_source.FolderSource._entries

    def only_for_root(self, name):
        if name.endswith("lost+found"):
            raise StageError("cannot list lost+found: Permission denied")
        return entries(self, name)

    monkeypatch.setattr(speech_source.FolderSource, "_entries", only_for_root)
    out = run_stage(corpus, tmp_path, "--data", top, "--conf", CONF)
    assert (out / "dev" / "utterances").read_text() == f"FAKS0_SX2 {DEV}.WAV\n"


def test_link_called_train_beside_train_is_refused(tmp_path):
    folder = write_folder(tmp_path / "timit", small_corpus())
    (folder / "train").symlink_to("TRAIN")
    refused(tmp_path, folder, "both TRAIN and train")


@pytest.mark.parametrize("link", ["TRAIN", "TEST"])
def test_link_that_is_the_only_one_of_its_name_is_refused(tmp_path, link):
    folder = write_folder(tmp_path / "timit", small_corpus())
    (folder / link).rename(tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    refused(tmp_path, folder, f"timit/{link} is a symbolic link")


def test_link_to_the_folder_above_train_and_test_is_refused(tmp_path):
    write_folder(tmp_path / "elsewhere", small_corpus())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "TIMIT").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path, tmp_path / "data", "data/TIMIT is a symbolic link")


def test_folder_that_cannot_be_listed_is_named_where_no_corpus_is_found(tmp_path, monkeypatch):
    (tmp_path / "data" / "closed").mkdir(parents=True)
    entries = speech_source.FolderSource._entries

    def closed(self, name):
        if name:
            raise StageError(f"cannot list {name}: Permission denied")
        return entries(self, name)

    monkeypatch.setattr(speech_source.FolderSource, "_entries", closed)
    with pytest.raises(StageError, match="no folders TRAIN and TEST") as caught:
        speech_source.find_corpus(speech_source.open_source(str(tmp_path / "data")))
    assert "cannot list closed: Permission denied" in caught.value.hint


def link_in_place_of(name):
    def change(folder):
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


ARRANGEMENTS = {
    "as it should be": (lambda folder: None, True),
    "links, pipes and closed folders beside": (beside, True),
    "a link for TRAIN": (link_in_place_of("TRAIN"), False),
    "a link called test beside TEST": (lambda folder: (folder / "test").symlink_to("TEST"), False),
    "a link for a speaker": (link_in_place_of("TRAIN/DR1/FABC0"), False),
    "a link for a wave": (link_in_place_of(TRAIN + ".WAV"), False),
    "a dangling link in a speaker's folder": (lambda folder: (folder / "TEST/DR1/x").symlink_to("/nowhere"), False),
    "a hidden link in a speaker's folder": (lambda folder: (folder / "TEST/DR1/.x").symlink_to("/nowhere"), True),
    "a pipe in a speaker's folder": (lambda folder: os.mkfifo(folder / "TEST/DR1/x"), False),
}


@pytest.mark.parametrize("below", ["", "TIMIT/"])
@pytest.mark.parametrize("arrangement", sorted(ARRANGEMENTS))
def test_host_and_stage_refuse_the_same_folders(tmp_path, monkeypatch, arrangement, below):
    change, accepted = ARRANGEMENTS[arrangement]
    top = tmp_path / "data"
    change(write_folder(top / below, small_corpus()))
    scandir = os.scandir

    def only_for_root(path="."):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", only_for_root)
    if accepted:
        digest_source(top, StatCache(None), "data")
        run_stage(corpus, tmp_path, "--data", top, "--conf", CONF)
    else:
        with pytest.raises(UsageError):
            digest_source(top, StatCache(None), "data")
        with pytest.raises(StageError):
            run_stage(corpus, tmp_path, "--data", top, "--conf", CONF)


def test_digest_of_a_corpus_is_of_what_the_stage_looks_at(tmp_path):
    plain, crowded = (write_folder(tmp_path / name, small_corpus()) for name in ("plain", "crowded"))
    beside(crowded)
    (crowded / "README.DOC").write_text("beside")
    assert digest_source(plain, StatCache(None), "data") == digest_source(crowded, StatCache(None), "data")
    (crowded / (DEV + ".TXT")).write_text("below")
    assert digest_source(plain, StatCache(None), "data") != digest_source(crowded, StatCache(None), "data")
