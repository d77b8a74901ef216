"""Accelerate with a batch that grows from 16 to 64.

Run it: pip install 'adabatch[accelerate,data]', then: python examples/with_accelerate.py
On two processes: accelerate launch --num_processes 2 examples/with_accelerate.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import adabatch as ab
from adabatch.integrations.accelerate import grow

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
    train = TensorDataset(inputs[:1500], targets[:1500])
    loader = DataLoader(train, batch_size=16 // accelerator.num_processes, shuffle=True)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model, optimizer, loader, cosine = accelerator.prepare(network, optimizer, loader, cosine)

    growth = ab.schedules.geometric(2, ab.epochs(2), maximum=64)
    growing = grow(accelerator, model, optimizer, loader, cosine, growth, coupling="sqrt", epochs=EPOCHS)

    updates = 0
    for _ in range(EPOCHS):
        for pixels, labels in growing:
            accelerator.backward(torch.nn.functional.cross_entropy(model(pixels), labels))
            optimizer.step()
            cosine.step()
            optimizer.zero_grad()
            updates += accelerator.sync_gradients

    network.eval()
    found = network(inputs[1500:].to(accelerator.device)).argmax(1).cpu()
    accuracy = (found == targets[1500:]).float().mean().item()
    accelerator.print(f"{updates} updates of {growing.batches.plan.updates}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
