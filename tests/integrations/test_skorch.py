"""skorch with a growing batch: passes, LRs and weights against those computed by hand; clones, pickles, resumes."""

from __future__ import annotations

import pickle

import pytest
import torch
from sklearn.base import clone
from tests.integrations import reference as ref

import adabatch as ab

pytest.importorskip("skorch")
import skorch

from adabatch.integrations.skorch import Growth

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Network(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.traced = ref.Traced(dropout)

    def forward(self, inputs):
        return self.traced(inputs)


def net_of(dropout=0.0, growth=None, callbacks=(), **more):
    usual = {
        "criterion": torch.nn.MSELoss,
        "optimizer": ref.SGD,
        "lr": ref.LR,
        "max_epochs": ref.EPOCHS,
        "batch_size": ref.BASE,
        "train_split": None,
        "iterator_train__shuffle": True,
        "iterator_train": ab.DataLoader,
        "iterator_train__seed": ref.SEED,
        "module__dropout": dropout,
        "verbose": 0,
    }
    growth = Growth(ref.growth()) if growth is None else growth
    return skorch.NeuralNetRegressor(Network, **(usual | {"callbacks": [growth, *callbacks]} | more))


def linear(name="lr"):
    return skorch.callbacks.LRScheduler(
        torch.optim.lr_scheduler.LinearLR, step_every="batch", event_name=name, start_factor=1.0, end_factor=0.0,
        total_iters=ref.BASE_UPDATES,
    )  # fmt: skip


def test_passes_lrs_and_weights_are_those_computed_by_hand():
    net = net_of(callbacks=[linear()]).fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES
    assert net.optimizer_.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(net.module_.traced.net)
    assert net.history[:, "train_batch_count"] == [32, 16, 8, 4]
    shown = [batch["lr"] for epoch in net.history for batch in epoch["batches"]]
    assert shown == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)


def test_torchs_loader_as_train_iterator():
    net = net_of(iterator_train=torch.utils.data.DataLoader)
    del net.iterator_train__seed
    net = clone(net).fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES


def test_clones_and_fits_begin_anew():
    net = net_of(callbacks=[linear()]).fit(*ref.data())
    for again in (clone(net).fit(*ref.data()), net.fit(*ref.data())):
        assert again.module_.traced.passes == ref.SIZES
        ref.assert_trained(again.module_.traced.net)


def test_partial_fit_goes_on(tmp_path):
    net = net_of(callbacks=[linear()], max_epochs=2)
    net.partial_fit(*ref.data()).partial_fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES
    assert net.optimizer_.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(net.module_.traced.net)


def test_a_pickled_net_goes_on_bit_for_bit_with_dropout():
    torch.manual_seed(3)
    net = net_of(0.3, callbacks=[linear()], max_epochs=2).partial_fit(*ref.data())
    saved = pickle.dumps(net)
    net.partial_fit(*ref.data())
    torch.manual_seed(99)
    again = pickle.loads(saved).partial_fit(*ref.data())
    assert torch.equal(ref.weights(net.module_), ref.weights(again.module_))
    assert again.module_.traced.passes == ref.SIZES


class SavesAt(skorch.callbacks.Callback):
    """Pickles the net within an epoch, after an update, when it comes after the growth."""

    def __init__(self, step):
        self.step = step

    def initialize(self):
        self.count_, self.saved_ = 0, None
        return self

    def on_batch_end(self, net, batch=None, training=None, **_):
        self.count_ += 1
        if self.count_ == self.step:
            self.saved_ = pickle.dumps(net)


def test_a_net_pickled_in_mid_epoch_goes_on_bit_for_bit_with_dropout():
    torch.manual_seed(3)
    saves = SavesAt(37)
    net = net_of(0.3, callbacks=[linear(), saves]).partial_fit(*ref.data())
    torch.manual_seed(99)
    again = pickle.loads(saves.saved_)
    again.max_epochs = 3
    again.partial_fit(*ref.data())
    assert torch.equal(ref.weights(net.module_), ref.weights(again.module_))
    assert again.module_.traced.passes == ref.SIZES


def test_a_net_pickled_in_mid_epoch_has_the_weights_computed_by_hand():
    saves = SavesAt(37)
    net_of(callbacks=[linear(), saves]).partial_fit(*ref.data())
    again = pickle.loads(saves.saved_)
    again.max_epochs = 3
    again.partial_fit(*ref.data())
    assert again.module_.traced.passes == ref.SIZES
    assert again.optimizer_.lrs[-23:] == pytest.approx(ref.LRS[37:], rel=1e-9, abs=1e-12)
    ref.assert_trained(again.module_.traced.net)


def test_an_interrupted_fit_goes_on():
    class Stops(skorch.callbacks.Callback):
        count = 0

        def on_batch_end(self, net, batch=None, training=None, **_):
            Stops.count += 1
            if Stops.count == 37:
                raise KeyboardInterrupt

    net = net_of(callbacks=[Stops(), linear()], max_epochs=4)
    net.fit(*ref.data())
    assert len(net.module_.traced.passes) == 37
    net.max_epochs = 3
    net.partial_fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES
    ref.assert_trained(net.module_.traced.net)


@pytest.mark.parametrize("step", [5, 37])
@pytest.mark.parametrize("epochs", [1, 4])
def test_partial_fit_goes_on_after_an_error(step, epochs):
    """Also one in the second call, which began at another place."""

    class Fails(skorch.callbacks.Callback):
        count = 0

        def on_batch_begin(self, net, batch=None, training=None, **_):
            Fails.count += 1
            if Fails.count == step + 1:
                raise ValueError("broken")

    net = net_of(callbacks=[linear(), Fails()], max_epochs=epochs).initialize()
    with pytest.raises(ValueError, match="broken"):
        net.partial_fit(*ref.data()).partial_fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES[:step]
    net.max_epochs = 4 - len(ref.SIZES[:step]) // 32
    net.partial_fit(*ref.data())
    assert net.module_.traced.passes == ref.SIZES
    assert net.optimizer_.lrs == pytest.approx(ref.LRS, rel=1e-9, abs=1e-12)
    ref.assert_trained(net.module_.traced.net)


def test_partial_fit_on_a_chunk_of_another_length():
    """The place cannot be carried on; growth that begins anew is that of a net which goes on training."""
    inputs, targets = ref.data()
    growth = Growth(ref.growth())
    net = net_of(growth=growth, max_epochs=2)
    net.partial_fit(inputs[:200], targets[:200])
    with pytest.raises(
        ValueError, match=r"`X` must have the 200 samples of the calls before, .* got 150; call `initialize"
    ):
        net.partial_fit(inputs[:150], targets[:150])
    net.partial_fit(inputs[:200], targets[:200])  # the call that was refused moved nothing
    growth.initialize()
    net.partial_fit(inputs[:150], targets[:150])
    chunk = [min(size, 200 - start) for size in (16, 32, 64, 128) for start in range(0, 200, size)]
    assert net.module_.traced.passes == chunk + [16] * 9 + [6] + [32] * 4 + [22]


def test_the_net_has_its_own_iterators_after_fit():
    net = net_of().fit(*ref.data())
    assert "get_iterator" not in vars(net)
    assert net.predict(ref.data()[0]).shape == (ref.N, 1)


def test_bad_input():
    with pytest.raises(ValueError, match="`callbacks` must have one Growth, got several; take the others out"):
        net_of(callbacks=[("another", Growth(ref.growth()))]).fit(*ref.data())
    with pytest.raises(TypeError, match=r"`schedule` must be a schedule"):
        net_of(growth=Growth(32)).fit(*ref.data())
    with pytest.raises(TypeError, match=r"`iterator_train` must be torch's DataLoader or ab.DataLoader"):
        net_of(iterator_train=iter).fit(*ref.data())
