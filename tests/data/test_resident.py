import torch
from tests.data.test_streams import ranked

from adabatch.data import ResidentLoader


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
