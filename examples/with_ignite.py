"""Ignite with a batch that grows from 16 to 64: `run(engine, loader, batches)` in the place of `engine.run(loader)`.

Run it: pip install 'adabatch[ignite,data]', then: python examples/with_ignite.py
"""

from typing import Any

import torch
from ignite.engine import Engine, Events
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.integrations.ignite import run

EPOCHS = 6


def main() -> None:
    """Trains on scans of digits."""
    images, digits = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16).float(), torch.tensor(digits)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 94)  # updates of 16 samples
    loader = ab.DataLoader(TensorDataset(inputs[:1500], targets[:1500]), batch_size=16, shuffle=True)
    growth = ab.schedules.geometric(2, ab.epochs(2), maximum=64)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling="sqrt", epochs=EPOCHS)
    lr = ab.by_samples(cosine, loader)

    def step(engine: Engine, batch: Any) -> float:
        model.train()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        lr.step()
        return loss.item()

    def accuracy() -> float:
        model.eval()
        return (model(inputs[1500:]).argmax(1) == targets[1500:]).float().mean().item()

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda each: print(f"epoch {each.state.epoch}: {accuracy():.3f}"))
    state = run(engine, loader, batches)
    print(f"{state.iteration} updates of {batches.plan.updates}, accuracy {accuracy():.3f}")


if __name__ == "__main__":
    main()
