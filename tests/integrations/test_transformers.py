"""The Trainer with a growing batch: passes, LRs and weights against those computed by hand; resumes bit for bit."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.accumulate.ranks import on_ranks
from tests.integrations import reference as ref

import adabatch as ab

pytest.importorskip("transformers")
import transformers

from adabatch.integrations.transformers import grow

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Regression(torch.nn.Module):
    """A model of the Trainer's kind, with a mean loss."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.traced = ref.Traced(dropout)

    def forward(self, inputs, labels=None):
        output = self.traced(inputs)
        return {"loss": torch.nn.functional.mse_loss(output, labels), "logits": output}


class Items(torch.utils.data.Dataset):
    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, item):
        return {"inputs": self.inputs[item], "labels": self.labels[item]}


def arguments(folder, **more):
    usual = {
        "per_device_train_batch_size": ref.BASE,
        "num_train_epochs": ref.EPOCHS,
        "learning_rate": ref.LR,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.0,
        "seed": ref.SEED,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return transformers.TrainingArguments(str(folder), **(usual | more))


def trainer_of(folder, model=None, *, data=None, scheduler=None, kind=transformers.Trainer, **more):
    model = Regression() if model is None else model
    optimizer = ref.SGD(model.parameters())
    made = more.pop("made", {})
    return kind(
        model,
        arguments(folder, **more),
        train_dataset=Items(*ref.data()) if data is None else data,
        optimizers=(optimizer, None if scheduler is None else scheduler(optimizer)),
        **made,
    )


def test_passes_lrs_and_weights_are_those_computed_by_hand(tmp_path):
    trainer = trainer_of(tmp_path)
    optimizer = trainer.optimizer
    growth = grow(trainer, ref.growth())
    found = trainer.train()
    assert trainer.model.traced.passes == ref.micro_sizes(ref.BASE)
    assert optimizer.lrs == pytest.approx(ref.LRS, rel=1e-12)
    ref.assert_trained(trainer.model)
    assert found.global_step == trainer.state.max_steps == ref.UPDATES
    assert trainer.state.num_train_epochs == ref.EPOCHS
    assert growth.batches.plan.updates == ref.UPDATES


def test_logs_have_the_lr_in_force_the_epoch_and_the_loss_of_the_batch(tmp_path):
    trainer = trainer_of(tmp_path)
    grow(trainer, ref.growth())
    trainer.train()
    logs = [each for each in trainer.state.log_history if "loss" in each]
    assert [each["learning_rate"] for each in logs] == pytest.approx(ref.LRS, rel=1e-12)
    ends = np.cumsum(ref.SIZES) / ref.N
    assert [each["epoch"] for each in logs] == pytest.approx(ends.tolist())
    assert [each["batch_size"] for each in logs] == [16] * 32 + [32] * 16 + [64] * 8 + [128] * 4
    inputs, targets = ref.data()
    for number in (0, 31, 45, 59):
        model = ref.network()
        torch.nn.utils.vector_to_parameters(ref.trained(until=number), model.parameters())
        items = list(ref.batches())[number][1]
        assert logs[number]["loss"] == pytest.approx(ref.loss_of(model, inputs[items], targets[items]).item(), rel=1e-6)


def test_validation_and_checkpoints_come_at_the_ends_of_epochs(tmp_path):
    trainer = trainer_of(
        tmp_path, eval_strategy="epoch", save_strategy="epoch", made={"eval_dataset": Items(*ref.data())}
    )
    grow(trainer, ref.growth())
    trainer.train()
    seen = [(each["step"], each["epoch"]) for each in trainer.state.log_history if "eval_loss" in each]
    assert seen == [(32, 1.0), (48, 2.0), (56, 3.0), (60, 4.0)]
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (32, 48, 56, 60)}


def test_callbacks_see_epochs_begin_and_end(tmp_path):
    seen = []

    class Watch(transformers.TrainerCallback):
        def on_epoch_begin(self, args, state, control, **_):
            seen.append(("begin", state.global_step))

        def on_epoch_end(self, args, state, control, **_):
            seen.append(("end", state.global_step))

    trainer = trainer_of(tmp_path, made={"callbacks": [Watch()]})
    grow(trainer, ref.growth())
    trainer.train()
    steps = [0, 32, 48, 56, 60]
    assert seen == [each for first, last in pairwise(steps) for each in (("begin", first), ("end", last))]


@pytest.mark.parametrize("step", [37, 48])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit_with_dropout(tmp_path, step):
    def run(folder, resume=None):
        trainer = trainer_of(folder, Regression(0.3), save_strategy="steps", save_steps=step)
        grow(trainer, ref.growth())
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    torch.manual_seed(99)
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert torch.equal(ref.weights(whole.model), ref.weights(resumed.model))
    assert resumed.state.global_step == ref.UPDATES
    assert sum(resumed.model.traced.passes) == sum(ref.SIZES[step:])
    rows = [[each for each in trainer.state.log_history if "loss" in each] for trainer in (whole, resumed)]
    for name in ("learning_rate", "epoch", "batch_size", "step"):
        assert [each[name] for each in rows[0]] == [each[name] for each in rows[1]]


def test_max_steps_ends_the_training_and_the_course_of_the_lr(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=50, num_train_epochs=1)
    optimizer = trainer.optimizer
    grow(trainer, ref.growth())
    trainer.train()
    passed = 2 * ref.N + 2 * 64
    course = 2 * 32 + 8  # updates of 16 that this takes
    expected = []
    for number in range(50):
        clock = sum(ref.SIZES[:number])
        epoch, offset = divmod(clock, ref.N)
        ratio = 2**epoch
        expected.append(ref.LR * (1 - (32 * epoch + offset // 16) / course) * ratio)
    assert optimizer.lrs == pytest.approx(expected, rel=1e-12)
    assert sum(trainer.model.traced.passes) == passed


def test_fractions_of_epochs(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=1.5)
    grow(trainer, ref.growth())
    assert trainer.train().global_step == 32 + 8
    assert trainer.state.epoch == pytest.approx(1 + 8 * 32 / ref.N)


def test_accumulation_that_was_asked_for_is_in_the_first_batch(tmp_path):
    trainer = trainer_of(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    grow(trainer, ref.growth())
    trainer.train()
    assert trainer.model.traced.passes == ref.micro_sizes(4)
    ref.assert_trained(trainer.model)


class Tokens(torch.nn.Module):
    """Next-token prediction whose loss is a mean over the labels that count, as transformers' models give it."""

    def __init__(self, divides=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(11, 11).double()
        self.divides = divides
        self.passes = []

    def forward(self, inputs, labels=None, **kwargs):
        number = kwargs.get("num_items_in_batch")
        found, summed = self.table(inputs).flatten(0, 1), self.divides and number is not None
        loss = torch.nn.functional.cross_entropy(found, labels.flatten(), reduction="sum" if summed else "mean")
        return {"loss": loss / number if summed else loss}


def token_data():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(11, (ref.N, 6), generator=generator)
    labels = torch.randint(11, (ref.N, 6), generator=generator)
    lengths = torch.randint(1, 7, (ref.N,), generator=generator)
    labels[torch.arange(6)[None] >= lengths[:, None]] = -100
    return inputs, labels


def mean_over_tokens(model, inputs, labels):
    return torch.nn.functional.cross_entropy(model.table(inputs).flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("divides", [True, False])
def test_losses_over_tokens_are_weighed_by_their_tokens(tmp_path, divides):
    """Whether the model divides by `num_items_in_batch` or ignores it."""
    trainer = trainer_of(tmp_path, Tokens(divides), data=Items(*token_data()), per_device_train_batch_size=8,
                         gradient_accumulation_steps=2)  # fmt: skip
    grow(trainer, ref.growth())
    trainer.train()
    ref.assert_trained(trainer.model, ref.trained(Tokens(), mean_over_tokens, token_data()))
    inputs, labels = token_data()
    first = next(ref.batches())[1]
    logged = next(each["loss"] for each in trainer.state.log_history if "loss" in each)
    assert logged == pytest.approx(mean_over_tokens(Tokens(), inputs[first], labels[first]).item(), rel=1e-6)


def test_a_weight_of_the_users_own(tmp_path):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = Tokens().table

        def forward(self, inputs, labels=None):
            return {"loss": mean_over_tokens(self, inputs, labels)}

    trainer = trainer_of(tmp_path, Plain(), data=Items(*token_data()), per_device_train_batch_size=4,
                         gradient_accumulation_steps=4)  # fmt: skip
    grow(trainer, ref.growth(), weight=lambda batch: (batch["labels"] != -100).sum())
    trainer.train()
    ref.assert_trained(trainer.model, ref.trained(Tokens(), mean_over_tokens, token_data()))


def test_a_stream_trains_for_max_steps(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            inputs, labels = ref.data()
            return iter([{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)])

    trainer = trainer_of(tmp_path, data=Stream(), max_steps=20)
    grow(trainer, ab.schedules.geometric(2, ab.samples(160), maximum=64))
    assert trainer.train().global_step == 20
    sizes = [16] * 10 + [32] * 5 + [64] * 2 + [500 - 448]  # the end of a pass cuts a batch
    passes, made = trainer.model.traced.passes, []
    while passes:
        size, got = (sizes[len(made)] if len(made) < len(sizes) else 64), 0
        while got < size:
            got += passes.pop(0)
        made.append(got)
    assert made == [*sizes, 64, 64]


def test_workers_a_users_lr_scheduler_and_a_second_training(tmp_path):
    def linear(optimizer):
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ref.BASE_UPDATES)

    trainer = trainer_of(tmp_path, dataloader_num_workers=1, scheduler=linear)
    optimizer = trainer.optimizer
    growth = grow(trainer, ref.growth())
    trainer.train()
    assert optimizer.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(trainer.model)
    growth.close()
    with pytest.raises(KeyError):
        trainer.__dict__["training_step"]
    assert trainer.args.gradient_accumulation_steps == 1


def test_training_twice(tmp_path):
    trainer = trainer_of(tmp_path)
    grow(trainer, ref.growth())
    trainer.train()
    assert trainer.train().global_step == ref.UPDATES
    assert trainer.model.traced.passes == 2 * ref.micro_sizes(ref.BASE)
    assert trainer.optimizer.optimizer.lrs == pytest.approx(2 * ref.LRS, rel=1e-12)


def test_after_close_the_trainer_trains_as_ever(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    grow(trainer, ref.growth()).close()
    assert trainer.train().global_step == 32
    assert trainer.model.traced.passes == [16] * 31 + [4]


def test_evaluation_is_not_weighed(tmp_path):
    trainer = trainer_of(tmp_path, made={"eval_dataset": Items(*ref.data())}, per_device_eval_batch_size=500)
    grow(trainer, ref.growth())
    trainer.train()
    inputs, targets = ref.data()
    found = trainer.evaluate()["eval_loss"]
    assert found == pytest.approx(ref.loss_of(trainer.model.traced.net, inputs, targets).item(), rel=1e-6)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_within_a_pass(tmp_path, error):
    """Evaluation is not weighed afterwards, the growth can be closed, and training goes on as ever."""

    class Fails(Regression):
        passes = 0

        def forward(self, inputs, labels=None):
            found = super().forward(inputs, labels)
            self.passes += self.training
            if self.passes == 40:
                self.passes += 1
                raise error("broken")
            return found

    def linear(optimizer):
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ref.BASE_UPDATES)

    trainer = trainer_of(tmp_path, Fails(), made={"eval_dataset": Items(*ref.data())}, num_train_epochs=4,
                         scheduler=linear, per_device_train_batch_size=8, per_device_eval_batch_size=500,
                         gradient_accumulation_steps=2)  # fmt: skip
    growth = grow(trainer, ref.growth())
    with pytest.raises(error):
        trainer.train()
    inputs, targets = ref.data()
    found = trainer.evaluate()["eval_loss"]
    assert found == pytest.approx(ref.loss_of(trainer.model.traced.net, inputs, targets).item(), rel=1e-6)
    growth.close()
    assert isinstance(trainer.lr_scheduler, torch.optim.lr_scheduler.LinearLR)
    before = trainer.lr_scheduler.last_epoch
    grow(trainer, ref.growth()).close()
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert trainer.lr_scheduler.last_epoch == before + 32


def test_closing_while_it_trains(tmp_path):
    class Closes(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            growth.close()

    trainer = trainer_of(tmp_path, made={"callbacks": [Closes()]})
    growth = grow(trainer, ref.growth())
    with pytest.raises(RuntimeError, match=r"`close\(\)` of a Growth was called while the Trainer trains"):
        trainer.train()
    growth.close()


@pytest.mark.parametrize("when", ["on_step_end", "on_log", "on_evaluate", "on_save"])
def test_callbacks_must_not_end_an_epoch(tmp_path, when):
    class Stops(transformers.TrainerCallback):
        pass

    def stop(self, args, state, control, **_):
        control.should_epoch_stop = True

    setattr(Stops, when, stop)
    steps = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
    trainer = trainer_of(tmp_path, made={"callbacks": [Stops()], "eval_dataset": Items(*ref.data())}, **steps)
    grow(trainer, ref.growth())
    with pytest.raises(RuntimeError, match="`should_epoch_stop` must not be set by a callback while the batch grows"):
        trainer.train()


def test_an_lr_schedule_made_before_training(tmp_path):
    trainer = trainer_of(tmp_path)
    optimizer = trainer.optimizer
    grow(trainer, ref.growth())
    trainer.create_optimizer_and_scheduler(100)
    trainer.train()
    assert optimizer.lrs == pytest.approx(ref.LRS, rel=1e-12)


def test_a_training_step_without_the_trainers_loss(tmp_path):
    class Own(transformers.Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**inputs)["loss"]
            loss.backward()
            return loss.detach()

    trainer = trainer_of(tmp_path, kind=Own)
    grow(trainer, ref.growth())
    with pytest.raises(RuntimeError, match="`training_step` of the Trainer must call `compute_loss`"):
        trainer.train()


def test_micro_batches_in_which_nothing_counts(tmp_path):
    """The mean over no token is 0 / 0, and so is its gradient."""

    class Weighted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.traced = ref.Traced()

        def forward(self, inputs, labels=None):
            return {"loss": mean(self.traced, inputs, labels)}

    def mean(model, inputs, targets):
        return ((model(inputs) - targets[:, :1]).square() * targets[:, 1:]).sum() / targets[:, 1:].sum()

    inputs, targets = ref.data()
    weight = torch.randint(3, (ref.N, 1), generator=torch.Generator().manual_seed(3)).double() / 64
    data = (inputs, torch.cat([targets, weight], 1))  # weights of whole batches below 1
    trainer = trainer_of(tmp_path, Weighted(), data=Items(*data), per_device_train_batch_size=2,
                         gradient_accumulation_steps=8)  # fmt: skip
    grow(trainer, ref.growth(), weight=lambda batch: batch["labels"][:, 1].sum())
    trainer.train()
    ref.assert_trained(trainer.model, ref.trained(ref.network(), mean, data))
    first = next(ref.batches())[1]
    logged = next(each["loss"] for each in trainer.state.log_history if "loss" in each)
    assert logged == pytest.approx(mean(ref.network(), data[0][first], data[1][first]).item(), rel=1e-6)


def test_rows_without_a_label(tmp_path):
    inputs, labels = token_data()
    labels[::2] = -100
    trainer = trainer_of(tmp_path, Tokens(divides=False), data=Items(inputs, labels), per_device_train_batch_size=1,
                         gradient_accumulation_steps=16, include_num_input_tokens_seen="all")  # fmt: skip
    trainer.model.main_input_name = "inputs"
    grow(trainer, ref.growth())
    trainer.train()
    ref.assert_trained(trainer.model, ref.trained(Tokens(), mean_over_tokens, (inputs, labels)))
    assert trainer.state.num_input_tokens_seen == ref.EPOCHS * ref.N * 6


@pytest.mark.parametrize("step", [37, 48])
def test_a_resumed_run_has_the_weights_computed_by_hand(tmp_path, step):
    for resume in (None, str(tmp_path / f"checkpoint-{step}")):
        trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=step)
        optimizer = trainer.optimizer
        grow(trainer, ref.growth())
        trainer.train(resume_from_checkpoint=resume)
    assert optimizer.lrs == pytest.approx(ref.LRS[step:], rel=1e-12)
    ref.assert_trained(trainer.model)


# Bad input.


def test_two_growths_on_one_trainer(tmp_path):
    trainer = trainer_of(tmp_path)
    grow(trainer, ref.growth())
    with pytest.raises(ValueError, match=r"`trainer` must have one growth, this one grows already; call `close\(\)`"):
        grow(trainer, ref.growth())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"auto_find_batch_size": True}, "`auto_find_batch_size` must not be set where a schedule grows the batch"),
        (
            {"accelerator_config": {"split_batches": True}},
            "`split_batches` must not be set .* cut over processes exactly",
        ),
        ({"accelerator_config": {"dispatch_batches": True}}, "`dispatch_batches` must not be set"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
            "`lr_scheduler_type` must be an LR sch",
        ),
    ],
)
def test_settings_that_take_batches_out_of_our_hands(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        grow(trainer_of(tmp_path, made={"eval_dataset": Items(*ref.data())}, **more), ref.growth())


@pytest.mark.parametrize("name", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_plugins_that_accumulate_themselves(tmp_path, name):
    trainer = trainer_of(tmp_path)
    setattr(trainer, name, True)
    with pytest.raises(ValueError, match=r"`(deepspeed|fsdp)` must not be set .*; train with DDP"):
        grow(trainer, ref.growth())


def test_a_version_without_the_hooks_is_named(tmp_path):
    class Old(transformers.Trainer):
        def get_batch_samples(self, epoch_iterator, num_batches):
            return [], None

    with pytest.raises(
        TypeError,
        match=rf"`transformers` must have `Old.get_batch_samples\(epoch_iterator, num_batches, device\)`.*, got "
        rf"transformers {re.escape(transformers.__version__)}; install transformers 5",
    ):
        grow(trainer_of(tmp_path, kind=Old), ref.growth())


def test_a_sampler_that_shards_itself(tmp_path):
    class Sharded(transformers.Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return torch.utils.data.DistributedSampler(self.train_dataset, num_replicas=2, rank=0)

    trainer = trainer_of(tmp_path, kind=Sharded)
    grow(trainer, ref.growth())
    with pytest.raises(ValueError, match="DistributedSampler"):
        trainer.train()


def test_a_checkpoint_without_the_growth(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=20, max_steps=20)
    trainer.train()
    grown = trainer_of(tmp_path)
    grow(grown, ref.growth())
    with pytest.raises(ValueError, match="`state` must be of an LR scheduler in a training with a growing batch"):
        grown.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"`trainer` must be a transformers.Trainer, got int"):
        grow(3, ref.growth())
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule"):
        grow(trainer_of(tmp_path), 32)


# Ranks.


def _environment(rank, world):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571"}
    ref.quiet()


def _two_ranks(rank, world):
    _environment(rank, world)
    folder = Path(os.environ["FOLDER"])
    trainer = trainer_of(folder / "plain", per_device_train_batch_size=8)
    optimizer = trainer.optimizer
    grow(trainer, ref.growth())
    with ref.reductions_of(trainer.model) as reduced:
        trainer.train()
    assert type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
    assert optimizer.lrs == pytest.approx(ref.LRS, rel=1e-12)
    planned = [max(size, 1) for size in ref.micro_sizes(8, world, rank)]  # a rank without samples repeats one
    assert trainer.model.traced.passes == planned
    ref.assert_trained(trainer.model)
    assert len(reduced) == ref.UPDATES
    logs = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    inputs, targets = ref.data()
    first = next(ref.batches())[1]
    assert logs[0] == pytest.approx(ref.loss_of(ref.network(), inputs[first], targets[first]).item(), rel=1e-6)

    tokens = trainer_of(folder / "tokens", Tokens(), data=Items(*token_data()), per_device_train_batch_size=4,
                        gradient_accumulation_steps=2)  # fmt: skip
    grow(tokens, ref.growth())
    tokens.train()
    ref.assert_trained(tokens.model, ref.trained(Tokens(), mean_over_tokens, token_data()))

    def run(name, resume=None):
        found = trainer_of(folder / name, Regression(0.3), save_strategy="steps", save_steps=37,
                           per_device_train_batch_size=8)  # fmt: skip
        grow(found, ref.growth())
        found.train(resume_from_checkpoint=resume)
        return ref.weights(found.model)

    whole = run("whole")
    torch.manual_seed(5 + rank)
    assert torch.equal(whole, run("resumed", str(folder / "whole" / "checkpoint-37")))


@pytest.mark.slow
@pytest.mark.world_size(2)
def test_two_ranks_train_the_same_and_reduce_once_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    on_ranks(2, _two_ranks)


def test_the_state_of_a_checkpoint_is_small_and_safe(tmp_path):
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=20, max_steps=20)
    grow(trainer, ref.growth())
    trainer.train()
    state = torch.load(tmp_path / "checkpoint-20" / "scheduler.pt", weights_only=True)
    assert state["loader"]["clock"] == 20 * 16
    assert json.loads(json.dumps(state["batches"])) == state["batches"]
