import pickle

import numpy as np
import pytest
import torch
from tests.data.sets import ranked
from tests.waits import CUDA, META, Calls, refused

from adabatch.data import DataLoader, ResidentLoader
from adabatch.data.order import permute


def test_the_batch_of_a_rank_without_a_sample_is_transformed_too():
    def new():
        data = torch.arange(8, dtype=torch.uint8).view(8, 1).expand(8, 40)
        transform = lambda batch: batch.float()[:, :32] + torch.rand(())  # noqa: E731
        return ResidentLoader(data, 2, device="cpu", seed=0, micro_batch_size=1, transform=transform)

    rows = list(zip(*(loader.parts() for loader in ranked(4, new)), strict=True))
    assert len(rows) == 4
    for row in rows:
        assert {part.size for _, part in row} == {0, 1}
        assert {(batch.dtype, batch.shape) for batch, _ in row} == {(torch.float32, (1, 32))}


def test_without_a_transform_it_comes_as_it_lies():
    loaders = ranked(4, lambda: ResidentLoader(torch.arange(8), 2, device="cpu", seed=0))
    assert [next(loader.parts())[0].tolist() for loader in loaders] == [[0], [1], [0], [0]]


def test_a_resident_set_has_the_order_and_state_of_any_loader():
    columns = (torch.arange(20), torch.arange(20) * 2.0)
    loader = ResidentLoader(columns, 6, True, device="cpu", seed=1)
    assert isinstance(loader, DataLoader)
    expected = permute(torch.arange(20).numpy(), size=20, seed=1, epoch=0).tolist()
    iterator = iter(loader)
    first = next(iterator)
    assert first[0].tolist() == expected[:6]
    resumed = DataLoader(columns, 4, True)
    resumed.load_state_dict(loader.state_dict())
    assert torch.cat([batch[0] for batch in resumed]).tolist() == expected[6:]
    loader.batch_size = 14
    assert next(iterator)[1].tolist() == [2.0 * item for item in expected[6:]]


def test_transforms_draw_the_same_again_and_leave_the_generator_alone():
    def noise(batch):
        return batch + torch.rand(len(batch))

    def run(start):
        loader = ResidentLoader(torch.zeros(20), 5, device="cpu", transform=noise, seed=1)
        loader.set_epoch(start)
        return [torch.cat(list(loader)) for _ in range(3 - start)]

    torch.manual_seed(3)
    whole = run(0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(run(1)[0], whole[1])
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(whole[0], whole[1])
    assert len(set(whole[0].tolist())) == 20


def test_what_is_not_made_of_tensors_is_refused():
    with pytest.raises(TypeError, match=r"`dataset` must be a TensorDataset.*got list.*DataLoader"):
        ResidentLoader([1, 2], 1)


@pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=pytest.mark.gpu)])
def test_an_epoch_waits_for_nothing_and_copies_nothing_for_a_batch(device):
    columns = torch.zeros(1000, 3, 8, 8, dtype=torch.uint8), torch.arange(1000)
    loader = ResidentLoader(columns, 50, True, device=device, seed=1)
    loader = pickle.loads(pickle.dumps(loader)) if device.type == "cuda" else loader
    with refused(device):
        for sizes in ([50] * 20, [100] * 10):
            loader.batch_size = sizes[0]
            with Calls() as calls:
                assert [len(targets) for _, targets in loader] == sizes
            assert calls.counts["sent"] == 1


@pytest.mark.gpu
@pytest.mark.parametrize("run_on", [False, True])
def test_a_gpu_gives_the_batches_of_the_cpu(run_on):
    def run(device):
        columns = torch.arange(1000), torch.arange(1000.0)
        loader = ResidentLoader(columns, 30, True, device=device, seed=1, run_on=run_on)
        found = []
        for epoch in range(3):
            for number, (inputs, targets) in enumerate(loader):
                found.append((inputs.tolist(), targets.tolist()))
                loader.batch_size = 30 + (7 * number + epoch) % 50
        return found, loader.state_dict()

    assert run(CUDA) == run("cpu")


@pytest.mark.gpu
def test_a_gpu_goes_on_from_the_cpus_state():
    columns = torch.arange(100_000), torch.arange(100_000.0)
    loader = ResidentLoader(columns, 300, True, device="cpu", seed=1)
    batches = iter(loader)
    done = [next(batches)[0].tolist() for _ in range(100)]
    there = ResidentLoader(columns, 300, True, device=CUDA)
    there.load_state_dict(loader.state_dict())
    done += [inputs.tolist() for inputs, _ in there]
    whole = permute(np.arange(100_000), size=100_000, seed=1, epoch=0)
    assert [item for batch in done for item in batch] == whole.tolist()
