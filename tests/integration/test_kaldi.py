"""Kaldi's own programs, compiled from its source archive: golden's features, and the same layer every time.

These run wherever the image can be built: with Kaldi's archive in data/sources, or with the image built before.
"""

from __future__ import annotations

import os
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from _runs import GOLDEN, ROOT

from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import Node, Request, build_graph, closure
from repro.images.commands import obtainable
from repro.images.compile import compile_layer, why_left_out
from repro.images.definition import load_definition
from repro.images.layer_tars import write_blob
from repro.images.layers.tree import Tree, tar_chunks
from repro.images.recipes import recipes_of
from repro.images.rootfs import Roots
from repro.machine import facts
from repro.run.engine_choice import compiling_engine
from repro.run.session import Session
from tests.integration._everywhere import DEMOS, OTHERS, Corpus, Everywhere

pytestmark = pytest.mark.timeout(4 * 3600)
SPLITS = ("train", "dev", "test")
MAX_FROM_GOLDEN = 1e-3  # Kaldi against Kaldi: only the BLAS kernel that a processor picks may differ
MAX_FROM_PORTABLE, MEAN_FROM_PORTABLE = 5e-3, 1e-5


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    paths = Paths(ROOT, tmp_path_factory.mktemp("results"))
    if "kaldi" not in obtainable(paths, facts.architecture(), lambda _: None):
        pytest.skip(why_left_out(paths, load_definition(paths.docker, "kaldi"), facts.architecture()))
    return Session(paths, Console())


def features(session: Session, data: Path | None, *pinned: str) -> Path:
    """The features stage's folder for a corpus, in its portable image or in Kaldi's."""
    request = Request(batch_sizes=(8,), data=data, checkpoint=Path("not-needed"), pinned=pinned)
    nodes: dict[str, Node] = closure(build_graph(request, session.paths.conf, Path("not-needed")), ["features"])
    choice = session.engine("sandbox", fetch=True)
    images = session.images({node.stage.image for node in nodes.values()}, fetch=True)
    return session.runner(choice.engine, session.keys(images)).run(nodes)["features"].result.out


def differences(ours: Path, theirs: Path) -> np.ndarray:
    one, other = dict(kaldiio.load_ark(str(ours))), dict(kaldiio.load_ark(str(theirs)))
    assert list(one) == list(other)
    return np.concatenate([np.abs(one[name].astype(np.float64) - other[name]).ravel() for name in one])


@pytest.fixture(scope="module")
def by_kaldi(session: Session) -> Path:
    return features(session, GOLDEN / "TIMIT", "features")


@pytest.mark.parametrize("split", SPLITS)
def test_kaldi_s_features_equal_golden_s_dither_included(by_kaldi: Path, split: str):
    assert differences(by_kaldi / split / "fbank.ark", GOLDEN / "data" / split / "fbank.ark").max() <= MAX_FROM_GOLDEN


@pytest.mark.parametrize("split", SPLITS)
def test_the_index_that_kaldi_wrote_leads_to_every_utterance(by_kaldi: Path, split: str):
    lines = [line.split() for line in (by_kaldi / split / "fbank.scp").read_text().splitlines()]
    utterances = (GOLDEN / "data" / split / "utterances").read_text().splitlines()
    assert [name for name, _ in lines] == [line.split()[0] for line in utterances]
    assert all(kaldiio.load_mat(f"{by_kaldi}/{place}").shape[1] == 81 for _, place in lines)


@pytest.mark.parametrize("split", SPLITS)
def test_portable_features_equal_kaldi_s_on_golden_s_corpus(session: Session, by_kaldi: Path, split: str):
    portable = features(session, GOLDEN / "TIMIT")
    found = differences(portable / split / "fbank.ark", by_kaldi / split / "fbank.ark")
    assert found.max() <= MAX_FROM_PORTABLE and found.mean() <= MEAN_FROM_PORTABLE


@pytest.mark.slow
@pytest.mark.parametrize("corpus", [DEMOS, OTHERS], ids=lambda corpus: corpus.name)
def test_portable_features_equal_kaldi_s_on_a_corpus_that_is_not_golden(session: Session, corpus: Corpus, tmp_path):
    data = Everywhere(session, corpus, tmp_path).native("demo_corpus") if corpus.maker else None
    portable, kaldi = features(session, data), features(session, data, "features")
    for split in SPLITS:
        found = differences(portable / split / "fbank.ark", kaldi / split / "fbank.ark")
        assert found.max() <= MAX_FROM_PORTABLE and found.mean() <= MEAN_FROM_PORTABLE, split


def test_the_image_holds_the_programs_and_their_licence_and_no_compiler(session: Session):
    root = Roots(session.paths).of(session.images(["kaldi"], fetch=True)["kaldi"])
    for name in ("compute-fbank-feats", "compute-cmvn-stats", "apply-cmvn", "copy-feats"):
        data = (root / "usr" / "local" / "bin" / name).read_bytes()
        assert data[:4] == b"\x7fELF" and len(data) < 1_000_000
        assert b".symtab" not in data and b"/tmp/kaldi" not in data
    assert b"Apache License" in (root / "usr" / "local" / "share" / "doc" / "kaldi" / "COPYING").read_bytes()
    assert not (root / "usr" / "bin" / "g++").exists()


@pytest.mark.slow
def test_compiled_again_elsewhere_the_layer_is_the_same(session: Session, tmp_path, monkeypatch):
    image = session.images(["kaldi"], fetch=True)["kaldi"]
    if not any((ROOT / "data" / "sources").glob("kaldi-*")):
        pytest.skip("the image was built before; Kaldi's archive itself is not in data/sources")
    toolchain = session.images(["toolchain"], fetch=True)["toolchain"]
    lock = recipes_of(session.paths, "kaldi", facts.architecture())[-1].lock
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old_mask = os.umask(0o077)
    try:
        tree = Tree(tmp_path / "contents")
        compile_layer(
            Paths(ROOT, tmp_path / "elsewhere"),
            lock,
            {},
            toolchain,
            tree,
            lambda _: None,
            compiling_engine(session.paths),
        )
        diff_id, _ = write_blob(tmp_path / "blobs", tar_chunks(tree.members()))
    finally:
        os.umask(old_mask)
    assert diff_id == image.layers[-1].diff_id
