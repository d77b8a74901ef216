"""Accelerate with a batch that grows from 16 to 64.

Run it: pip install 'adabatch[accelerate,data]', then: python examples/with_accelerate.py
On two processes: accelerate launch --num_processes 2 examples/with_accelerate.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.integrations.accelerate import prepare

EPOCHS = 6


def main() -> None:
    """Trains on scans of digits."""
    images, digits = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16).float(), torch.tensor(digits)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * 94)  # updates of 16 samples
    train = TensorDataset(inputs[:1500], targets[:1500])
    loader = ab.DataLoader(train, batch_size=16, shuffle=True, micro_batch_size=16, device=accelerator.device)
    growth = ab.schedules.geometric(2, ab.epochs(2), maximum=64)
    batches = ab.BatchSizeScheduler(optimizer, loader, growth, coupling="sqrt", epochs=EPOCHS)
    model, optimizer = accelerator.prepare(network, optimizer)
    lr_scheduler = prepare(accelerator, loader, batches, cosine)  # `accelerator.save_state` holds all of it
    assert lr_scheduler is not None

    updates = 0
    for _ in range(EPOCHS):
        for micro in ab.accumulate(loader, model):
            with micro as (pixels, labels):
                loss = torch.nn.functional.cross_entropy(model(pixels), labels)
                accelerator.backward(loss * micro.weight)
            if micro.is_last:
                optimizer.step()
                optimizer.zero_grad()
                batches.step()
                lr_scheduler.step()
                updates += 1

    network.eval()
    found = network(inputs[1500:].to(accelerator.device)).argmax(1).cpu()
    accuracy = (found == targets[1500:]).float().mean().item()
    accelerator.print(f"{updates} updates of {batches.plan.updates}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
