"""Train the demo checkpoint: the recogniser's true architecture, on the demo corpus.

CTC, helped at first by a cross-entropy with the phone that the synthesiser says was spoken at each frame; Adam, a
warm-up and a cosine. After each epoch the dev set is decoded as the pipeline does it (weights rounded to float16, rows
padded to 390, greedy), and the epoch with the lowest phone error rate is kept.

out/checkpoint.pth is in the reference's format, with float16 weights; out/summary.json has the error rates, as
obs/training.json has the whole course. With --state a killed training goes on where it was. Floating point differs
between CPUs and PyTorch releases, so two machines train two different, equally good checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import time
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from stages.demo import checkpoint, data, recipe
from stages.demo import state as training_state
from stages.model.model import build_model
from stages.scoring.decode import BLANK, greedy
from stages.shared import architecture, stage
from stages.shared.stage import StageError

_CLIP_NORM = 5.0
_SAVE_EVERY_S = 60.0
_EVALUATED_AT_ONCE = 8


class TimeLimitError(StageError):
    """--minutes have passed; the state is saved."""


def phone_errors(model: torch.nn.Module, examples: Sequence[data.Example]) -> tuple[int, int]:
    """(edits, phones) of a greedy decode with rows padded to 390, as in the pipeline; the model is left evaluating."""
    model.eval()
    edits = phones = 0
    with torch.no_grad():
        for start in range(0, len(examples), _EVALUATED_AT_ONCE):
            group = examples[start : start + _EVALUATED_AT_ONCE]
            logprobs = model(torch.from_numpy(data.padded(group, architecture.ROWS))).numpy()
            for place, example in enumerate(group):
                edits += data.edit_distance(example.labels, greedy(logprobs[: len(example.rows) // 2, place]))
                phones += len(example.labels)
    return edits, phones


def loss_of(logprobs: torch.Tensor, group: Sequence[data.Example], weight: float) -> torch.Tensor:
    """CTC loss a label, plus `weight` times the cross-entropy a frame.

    Args:
        logprobs: (frames, batch, 41) float32.
        group: the batch's examples.
    """
    lengths = [len(example.rows) // 2 for example in group]
    targets = torch.tensor([label for example in group for label in example.labels], dtype=torch.long)
    label_counts = torch.tensor([len(example.labels) for example in group], dtype=torch.long)
    input_lengths = torch.tensor(lengths, dtype=torch.long)
    loss = functional.ctc_loss(logprobs, targets, input_lengths, label_counts, blank=BLANK, zero_infinity=True)
    if weight > 0.0:
        ignored = -1
        frames = np.full((logprobs.shape[0], len(group)), ignored, dtype=np.int64)
        for place, example in enumerate(group):
            frames[: lengths[place], place] = example.frames
        aligned = functional.nll_loss(
            logprobs.reshape(-1, architecture.CLASSES), torch.from_numpy(frames).reshape(-1), ignore_index=ignored
        )
        loss = loss + weight * aligned
    return loss


def _autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    if precision == "float32":
        return contextlib.nullcontext()
    if not hasattr(torch, "autocast"):
        raise StageError("PyTorch {} has no bfloat16 training on CPUs".format(torch.__version__), "Use float32.")
    return torch.autocast("cpu", dtype=torch.bfloat16)


class Training:
    """The model, its optimiser and how far it has come: everything that a resumed training needs."""

    def __init__(
        self, options: argparse.Namespace, examples: Sequence[data.Example], dev: Sequence[data.Example]
    ) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.examples = examples
        self.dev = dev
        self.model = build_model(options.dropout)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=0.0)
        self.epoch = 0
        self.place = 0  # batches done in this epoch
        self.best: dict[str, Any] = {}  # epoch, edits, phones and weights
        self.course: list[dict[str, Any]] = []  # one dict an epoch
        self.seconds = 0.0
        self.environments: list[dict[str, str]] = []  # PyTorch and precision of each part, where they changed
        self.losses: list[float] = []

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.examples) / self.options.batch)

    @property
    def num_steps(self) -> int:
        return self.options.epochs * self.steps_an_epoch

    def state(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "course": self.course,
            "environments": self.environments,
            "epoch": self.epoch,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "place": self.place,
            "random": torch.get_rng_state(),
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name in ("best", "course", "environments", "epoch", "losses", "place", "seconds"):
            setattr(self, name, state[name])
        torch.set_rng_state(state["random"])

    def note_environment(self) -> None:
        # As a plain string: a state must open in a release that lacks the class of torch.__version__.
        environment = {"torch": str(torch.__version__), "precision": self.options.precision}
        if self.epoch < self.options.epochs and environment not in self.environments:
            self.environments.append(environment)

    def step(self, group: Sequence[data.Example], extra_rows: int) -> float:
        """One batch of `Example`s, padded by `extra_rows` beyond its longest; returns its loss."""
        self.model.train()
        number = self.epoch * self.steps_an_epoch + self.place
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = recipe.learning_rate(number, self.num_steps, self.options.peak_rate)
        rows = max(len(example.rows) for example in group) + extra_rows
        with _autocast(self.options.precision):
            logprobs = self.model(torch.from_numpy(data.padded(group, rows)))
        loss = loss_of(logprobs.float(), group, recipe.alignment_weight(number, self.num_steps))
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        self.optimiser.step()
        value = loss.item()
        if not math.isfinite(value):
            raise StageError("the loss is not finite in epoch {}".format(self.epoch + 1), "Lower --peak-rate.")
        return value

    def finish_epoch(self) -> None:
        """Score the dev set with the weights as they would be stored; keep them if no epoch was better."""
        weights = checkpoint.rounded(self.model.state_dict())
        edits, phones = phone_errors(model_with(weights), self.dev)
        self.epoch += 1
        self.place = 0
        self.course.append(
            {
                "dev_per_percent": round(100.0 * edits / phones, 4),
                "epoch": self.epoch,
                "loss": round(sum(self.losses) / len(self.losses), 5),
                "seconds": round(self.seconds, 1),
            }
        )
        self.losses = []
        if not self.best or edits < self.best["edits"]:
            self.best = {"epoch": self.epoch, "edits": edits, "phones": phones, "weights": weights}


def model_with(weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A model with stored (float16) weights, widened to float32, evaluating."""
    model = build_model()
    model.load_state_dict(weights)
    return model.eval()


def train(training: Training, save: Callable[[], None]) -> None:
    """Run what is left of the training; `save()` is called about once a minute and after each epoch.

    Raises:
        TimeLimitError: --minutes have passed; the last thing done was to save.
    """
    options = training.options
    begin_s = saved_s = time.monotonic()
    progress = stage.Progress("demo training", training.num_steps)
    progress.advance(training.epoch * training.steps_an_epoch + training.place)
    lengths = [len(example.rows) for example in training.examples]
    while training.epoch < options.epochs:
        plan = recipe.epoch_batches(lengths, options.batch, options.seed, training.epoch)
        while training.place < len(plan):
            step_s = time.monotonic()
            indices, extra_rows = plan[training.place]
            training.losses.append(training.step([training.examples[index] for index in indices], extra_rows))
            training.place += 1
            now_s = time.monotonic()
            training.seconds += now_s - step_s
            progress.advance()
            if options.minutes is not None and now_s - begin_s > options.minutes * 60:
                save()
                raise TimeLimitError(
                    "{:g} minutes have passed in epoch {} of {}".format(
                        options.minutes, training.epoch + 1, options.epochs
                    ),
                    "Run it again with the same --state to go on.",
                )
            if now_s - saved_s > _SAVE_EVERY_S:
                save()
                saved_s = now_s
        training.finish_epoch()
        save()
        saved_s = time.monotonic()
        print(json.dumps(training.course[-1], sort_keys=True), flush=True)


def training_key(options: argparse.Namespace, corpus_digest: str) -> str:
    """What a state must agree on. Threads and precision may change on the way: a faster machine may take over."""
    names = ("batch", "dropout", "epochs", "peak_rate", "seed")
    values = {name: getattr(options, name) for name in names}
    return json.dumps(dict(values, examples=corpus_digest), sort_keys=True)


def _digest_of(examples: Sequence[data.Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.utterance.encode())
        for array in (example.rows, np.asarray(example.labels, np.int64), example.frames):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = stage.parser(__doc__)
    parser.add_argument("--corpus", required=True, metavar="DIR", help="corpus stage's result")
    parser.add_argument("--features", required=True, metavar="DIR", help="features stage's result")
    parser.add_argument("--data", required=True, metavar="PATH", help="the demo corpus itself, for its phone times")
    parser.add_argument("--state", metavar="DIR", help="existing folder that remembers a training that was stopped")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the train set (%(default)s)")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; needs --state (no limit)")
    parser.add_argument("--batch", type=int, default=16, help="utterances a step (%(default)s)")
    parser.add_argument("--peak-rate", type=float, default=1.3e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.2, help="after each recurrent layer (%(default)s)")
    parser.add_argument("--seed", type=int, default=20261122, help="of weights, batches and dropout (%(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads (all)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32",
        help="bfloat16 is faster on CPUs that have it, and needs PyTorch 1.10 or later (%(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if min(options.epochs, options.batch, options.threads) < 1:
        parser.error("--epochs, --batch and --threads must be at least 1")
    if not 0.0 <= options.dropout < 1.0 or not options.peak_rate > 0.0:
        parser.error("--dropout must be in [0, 1), --peak-rate above 0")
    if options.minutes is not None and options.state is None:
        parser.error("--minutes needs --state, or what was learned is lost")
    return options


def main(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    classes = data.read_units(options.corpus)
    examples = data.read_split(options.corpus, options.features, "train", classes, options.data)
    dev = data.read_split(options.corpus, options.features, "dev", classes)
    test = data.read_split(options.corpus, options.features, "test", classes)

    training = Training(options, examples, dev)
    key = training_key(options, _digest_of(examples))
    if options.state is not None:
        state = training_state.load_state(options.state, key)
        if state is not None:
            training.restore(state)
    training.note_environment()

    def save() -> None:
        if options.state is not None:
            training_state.save_state(options.state, key, training.state())

    train(training, save)

    weights = training.best["weights"]
    model = model_with(weights)
    rates = {}
    for split, part in (("dev", dev), ("test", test)):
        edits, phones = phone_errors(model, part)
        rates[split] = {"edits": edits, "phones": phones, "per_percent": round(100.0 * edits / phones, 4)}
    checkpoint.write_checkpoint(os.path.join(options.out, "checkpoint.pth"), weights, options.dropout)
    summary = {"best_epoch": training.best["epoch"], "epochs": options.epochs, "rates": rates}
    stage.write_json(os.path.join(options.out, "summary.json"), summary)
    stage.write_json(
        os.path.join(options.obs, "training.json"),
        {
            "course": training.course,
            "scored_with_torch": str(torch.__version__),
            "threads": options.threads,
            "trained_with": training.environments,
            "training_s": round(training.seconds, 1),
        },
    )
    print(json.dumps(summary, sort_keys=True))


if __name__ == "__main__":
    stage.run(main)
