"""Augmentation against images cut one by one, and what its randomness depends on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.waits import CUDA, META, Calls, refused

from adabatch._random import GOLDEN, split_mix
from adabatch.lab.tasks import augment
from adabatch.lab.tasks.augment import CropFlip, draws

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def transform(**settings: object) -> CropFlip:
    return CropFlip(MEAN, STD, image_size=9, classes=10, **settings)


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, 9, 9), generator=generator, dtype=torch.uint8)


def normalised(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return ((x.double() / 255 - mean) / std).float()


def one_by_one(x: torch.Tensor, seed: int, clock: int, stride: int = 1, padding: int = 2) -> torch.Tensor:
    """The same crops and flips, an image at a time."""
    shifts = 2 * padding + 1
    found = []
    for index, image in enumerate(x):
        drawn = int(draws(2 * shifts**2, seed=seed, clock=clock + index * stride, count=1, name="crop and flip")[0])
        (down, right), mirrored = divmod(drawn // 2, shifts), drawn % 2
        image = image.flip(-1) if mirrored else image
        image = torch.nn.functional.pad(image, (padding,) * 4)
        found.append(image[:, down : down + 9, right : right + 9])
    return normalised(torch.stack(found))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20), seed=st.integers(0, 2**40), clock=st.integers(0, 2**50), stride=st.integers(1, 8))
def test_batches_are_what_single_images_are(count: int, seed: int, clock: int, stride: int) -> None:
    x = images(count)
    found = transform(padding=2).train(x, seed=seed, clock=clock, stride=stride)
    torch.testing.assert_close(found, one_by_one(x, seed, clock, stride), atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 9), clock=st.integers(0, 10**6))
def test_it_does_not_matter_how_samples_are_batched(cuts: list[int], seed: int, clock: int) -> None:
    x = images(40)
    whole = transform().train(x, seed=seed, clock=clock)
    edges = [0, *sorted(cuts), 40]
    parts = [transform().train(x[a:b], seed=seed, clock=clock + a) for a, b in pairwise(edges)]
    assert torch.equal(torch.cat(parts), whole)
    ranks = [transform().train(x[r::3], seed=seed, clock=clock + r, stride=3) for r in range(3)]
    for rank, part in enumerate(ranks):
        assert torch.equal(part, whole[rank::3])


def draws_of_the_cpu(
    options: int, *, seed: int, clock: int, stride: int = 1, count: int, name: str
) -> npt.NDArray[np.int64]:
    """The numbers by numpy's unsigned words, all at once."""
    places = np.arange(count, dtype=np.uint64) * np.uint64(stride) + np.uint64(clock)
    bits = split_mix((places + np.uint64(1)) * GOLDEN + augment._key(seed, name))
    return ((bits >> np.uint64(32)) * np.uint64(options) >> np.uint64(32)).astype(np.int64)


DRAWS = {
    "options": st.integers(1, 2**31), "seed": st.integers(0, 2**64), "clock": st.integers(0, 2**62),
    "stride": st.integers(1, 2**20), "count": st.integers(0, 100), "name": st.text(max_size=3),
}  # fmt: skip


def check_draws(device: torch.device, **how: object) -> None:
    found = draws(device=device, **how)
    assert (found.dtype, found.device) == (torch.int64, device)
    assert np.array_equal(found.cpu().numpy(), draws_of_the_cpu(**how))


@settings(max_examples=100, deadline=None)
@given(window=st.integers(1, 50), **DRAWS)
def test_signed_words_give_the_numbers_of_unsigned_ones(window: int, **how: object) -> None:
    """A device has no unsigned words; and draws are made a window at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "WINDOW", window)
        augment._window.cache_clear()
        check_draws(CPU, **how)
    augment._window.cache_clear()


def test_the_clocks_of_a_long_training_wrap_around_alike() -> None:
    for clock in (2**62 - 3, 2**63 - 1, 2**63 - 2 * augment.WINDOW):
        for options in (1, 162, 2**31 - 1, 2**31):
            check_draws(CPU, options=options, seed=1, clock=clock, count=2 * augment.WINDOW, name="x")


@pytest.mark.parametrize("device", [META, pytest.param(CUDA, marks=pytest.mark.gpu)])
def test_batches_that_lie_on_a_gpu_are_cut_there_by_one_gather_and_nothing_waits(device: torch.device) -> None:
    crop, x = transform(), images(64).to(device)
    crop.train(x, seed=1, clock=0)
    with refused(device), Calls() as calls:
        found = crop.train(x, seed=1, clock=64)
    assert (found.device, found.shape, found.dtype) == (device, (64, 3, 9, 9), torch.float32)
    assert (calls.counts["sent"], calls.counts["index"], calls.counts["index_select"]) == (0, 1, 1)
    assert sum(calls.counts.values()) < 25  # nothing is drawn: that was done for a window


@pytest.mark.gpu
def test_a_gpu_draws_and_cuts_as_the_cpu() -> None:
    for clock in (0, 10**6, 2**62):
        for stride in (1, 3):
            how = {"seed": 2**63, "clock": clock, "stride": stride, "count": 2 * augment.WINDOW + 5, "name": "x"}
            check_draws(CUDA, options=162, **how)
    x = images(500)
    for crop in (transform(), transform(padding=0), transform(flip=False)):
        expected = crop.train(x, seed=1, clock=10**9)
        torch.testing.assert_close(crop.train(x.to(CUDA), seed=1, clock=10**9).cpu(), expected, rtol=0, atol=1e-6)


def test_seed_clock_and_name_matter() -> None:
    reference = draws(1000, seed=0, clock=0, count=500, name="a")
    for other in (
        draws(1000, seed=1, clock=0, count=500, name="a"),
        draws(1000, seed=0, clock=500, count=500, name="a"),
        draws(1000, seed=0, clock=0, count=500, name="b"),
    ):
        assert (reference == other).double().mean() < 0.02
    assert torch.equal(reference, draws(1000, seed=0, clock=0, count=500, name="a"))


def test_draws_are_frozen() -> None:
    """A change of these numbers would change every run that was ever made."""
    assert draws(10**6, seed=3, clock=10**9, count=3, name="crop and flip").tolist() == FROZEN


FROZEN = [14703, 816072, 196478]


@pytest.mark.parametrize("stride", [1, 7, 2**20])
def test_draws_are_uniform_and_neighbours_are_independent(stride: int) -> None:
    count, options = 162_000, 162
    found = draws(options, seed=5, clock=12345, stride=stride, count=count, name="x").numpy()
    assert found.min() == 0
    assert found.max() == options - 1
    expected = count / options
    chi = ((np.bincount(found, minlength=options) - expected) ** 2 / expected).sum()
    assert abs(chi - (options - 1)) < 5 * np.sqrt(2 * (options - 1))
    pairs = np.bincount(found[:-1] // 9 * 18 + found[1:] // 9, minlength=324)
    expected = (count - 1) / 324
    chi = ((pairs - expected) ** 2 / expected).sum()
    assert abs(chi - 323) < 5 * np.sqrt(2 * 323)


def test_without_crop_or_flip() -> None:
    x = images(64)
    assert torch.equal(transform(padding=0, flip=False).train(x, seed=0, clock=0), transform().test(x))
    torch.testing.assert_close(transform().test(x), normalised(x), atol=1e-5, rtol=1e-5)
    only_flips = transform(padding=0).train(x, seed=0, clock=0)
    mirrored = (only_flips == transform().test(x.flip(-1))).flatten(1).all(1)
    same = (only_flips == transform().test(x)).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 15 < mirrored.sum() < 49
    only_crops = transform(padding=1, flip=False).train(x, seed=0, clock=0)
    assert not torch.equal(only_crops, transform().test(x))


def test_padding_is_black() -> None:
    white = torch.full((200, 3, 9, 9), 255, dtype=torch.uint8)
    found = transform().train(white, seed=0, clock=0)
    black = normalised(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(found.amin((0, 2, 3)), black)


def test_inputs_stay_as_they_are() -> None:
    x = images(8)
    before = x.clone()
    transform().train(x, seed=0, clock=0)
    assert torch.equal(x, before)
    channels_last = transform().train(x.contiguous(memory_format=torch.channels_last), seed=0, clock=0)
    assert torch.equal(channels_last, transform().train(x, seed=0, clock=0))
