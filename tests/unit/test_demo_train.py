"""The demo training: stopped and resumed it is the same training, and its checkpoint is the reference's format."""

import json

import pytest
from _demo_cases import Tree

from stages.shared.stage import StageError

torch = pytest.importorskip("torch")

from stages import demo_train
from stages.demo import checkpoint as demo_checkpoint
from stages.model import checkpoint as checkpoints
from stages.model.model import build_model

UTTERANCES = {f"A_{number}": (30 + number, ["p0", "p1", f"p{number}"]) for number in range(2, 7)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    trees = {split: Tree(root / split, split) for split in ("train", "dev", "test")}
    trees["train"].write(UTTERANCES)
    for split in ("dev", "test"):
        trees[split].write({"B_1": (40, ["p1", "p2"])})
        for name in ("corpus", "features"):
            target = getattr(trees["train"], name) / split
            (getattr(trees[split], name) / split).rename(target)
    return trees["train"]


class Run:
    """One call of the stage, with fresh out and obs folders and a state folder that may be shared."""

    def __init__(self, folder, inputs, state, *more):
        self.out, self.obs = folder / "out", folder / "obs"
        for path in (self.out, self.obs):
            path.mkdir(parents=True)
        arguments = ["--corpus", inputs.corpus, "--features", inputs.features, "--data", inputs.data]
        arguments += ["--out", self.out, "--obs", self.obs, "--state", state]
        arguments += ["--epochs", "2", "--batch", "2", "--threads", "1", *more]
        self.arguments = [str(argument) for argument in arguments]

    def go(self):
        demo_train.main(self.arguments)
        return self

    @property
    def checkpoint(self):
        return (self.out / "checkpoint.pth").read_bytes()


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "state").mkdir()
    return Run(folder, inputs, folder / "state").go()


def test_checkpoint_is_small_and_passes_the_strict_reader(whole):
    path = whole.out / "checkpoint.pth"
    assert path.stat().st_size <= 36000000
    assert checkpoints.load_model(str(path)).training is False


def test_checkpoint_has_the_references_entries_in_plain_types(whole):
    content = torch.load(str(whole.out / "checkpoint.pth"))
    assert sorted(content) == ["_drop_out", "cnn_param", "num_class", "rnn_param", "state_dict"]
    assert content["num_class"] == 41 and content["rnn_param"]["rnn_hidden_size"] == 384
    dtypes = {value.dtype for value in content["state_dict"].values()}
    assert dtypes == {torch.float16, torch.int64}


def test_summary_counts_edits_of_the_stored_weights(whole):
    summary = json.loads((whole.out / "summary.json").read_text(encoding="utf-8"))
    dev = summary["rates"]["dev"]
    assert dev["phones"] == 2 and dev["per_percent"] == 100.0 * dev["edits"] / 2
    course = json.loads((whole.obs / "training.json").read_text(encoding="utf-8"))["course"]
    assert dev["per_percent"] == min(epoch["dev_per_percent"] for epoch in course)
    assert [epoch["epoch"] for epoch in course] == [1, 2]


def test_same_weights_make_the_same_bytes():
    def content():
        torch.manual_seed(1)
        return demo_checkpoint.checkpoint_bytes(demo_checkpoint.rounded(build_model().state_dict()), 0.2)

    assert content() == content()


def test_every_weight_is_read_back_as_it_was(tmp_path):
    torch.manual_seed(1)
    weights = demo_checkpoint.rounded(build_model().state_dict())
    demo_checkpoint.write_checkpoint(str(tmp_path / "x.pth"), weights, 0.2)
    found = torch.load(str(tmp_path / "x.pth"))["state_dict"]
    assert list(found) == list(weights)
    for name, value in weights.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_training_killed_after_any_step_ends_with_the_same_checkpoint(whole, inputs, tmp_path, monkeypatch):
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setattr(demo_train, "_SAVE_EVERY_S", 0.0)  # every step
    step = demo_train.Training.step

    class Killed(BaseException):
        pass

    for attempt in range(20):
        calls = []

        def killed_in_the_second_step(training, group, extra, calls=calls):
            calls.append(1)
            if len(calls) == 2:
                raise Killed
            return step(training, group, extra)

        monkeypatch.setattr(demo_train.Training, "step", killed_in_the_second_step)
        run = Run(tmp_path / str(attempt), inputs, state)
        try:
            run.go()
            break
        except Killed:
            assert not list(run.out.iterdir())
    assert attempt == 5  # six steps, one a run
    assert run.checkpoint == whole.checkpoint


def test_finished_training_only_writes_its_checkpoint_again(whole, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_train.Training, "step", lambda *_: pytest.fail("trained again"))
    again = Run(tmp_path, inputs, whole.out.parent / "state").go()
    assert again.checkpoint == whole.checkpoint


def test_time_limit_saves_and_says_how_to_go_on(inputs, tmp_path):
    run = Run(tmp_path, inputs, tmp_path, "--minutes", "0")
    with pytest.raises(StageError, match="0 minutes have passed in epoch 1 of 2") as raised:
        run.go()
    assert "--state" in raised.value.hint
    assert (tmp_path / "training.state").exists() and not list(run.out.iterdir())


def test_state_of_other_options_is_refused(whole, inputs, tmp_path):
    with pytest.raises(StageError, match="other data or options"):
        Run(tmp_path, inputs, whole.out.parent / "state", "--seed", "1").go()


def test_damaged_state_is_refused_by_name(inputs, tmp_path):
    (tmp_path / "training.state").write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(StageError, match=r"training\.state: cannot be read"):
        Run(tmp_path, inputs, tmp_path).go()


def test_weight_beyond_float16_is_refused_by_name():
    state = build_model().state_dict()
    state["fc.1.weight"][0, 0] = 1e6
    with pytest.raises(StageError, match=r"fc\.1\.weight does not fit"):
        demo_checkpoint.rounded(state)


def test_alignment_counts_only_frames_of_speech(inputs):
    classes = demo_train.data.read_units(str(inputs.corpus))
    group = demo_train.data.read_split(str(inputs.corpus), str(inputs.features), "train", classes, str(inputs.data))
    torch.manual_seed(2)
    short = torch.log_softmax(torch.randn(12, len(group), 41), 2)
    padded = torch.cat((short, torch.log_softmax(torch.randn(30, len(group), 41), 2)))
    assert demo_train.loss_of(short, group, 0.5).item() == pytest.approx(demo_train.loss_of(padded, group, 0.5).item())


def test_state_opens_in_other_releases_of_pytorch(whole):
    content = torch.load(str(whole.out.parent / "state" / "training.state"))
    # A class of its own (torch.__version__ has one in later releases) could not be read where it is not known.
    assert {type(value) for entry in content["state"]["environments"] for value in entry.values()} == {str}
