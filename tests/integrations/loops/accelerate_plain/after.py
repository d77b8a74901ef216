"""A loop in the manner of Accelerate's first example; here its batch grows."""

import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.utils.data import DataLoader

import adabatch as ab
from adabatch.integrations.accelerate import grow


def main(args, model, train_set, test_set):
    accelerator = Accelerator(cpu=True)
    train_dataloader = DataLoader(train_set, shuffle=True, batch_size=args.batch_size)
    eval_dataloader = DataLoader(test_set, shuffle=False, batch_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    steps = len(train_dataloader) * args.epochs
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    model, optimizer, train_dataloader, eval_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader, lr_scheduler
    )
    growth = ab.schedules.geometric(2, ab.epochs(1), maximum=32)
    train_dataloader = grow(accelerator, model, optimizer, train_dataloader, lr_scheduler, growth, coupling="sqrt")
    for _ in range(args.epochs):
        model.train()
        for inputs, labels in train_dataloader:
            loss = functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()

        model.eval()
        for inputs, labels in eval_dataloader:
            with torch.no_grad():
                predictions = model(inputs).argmax(dim=-1)
            predictions, references = accelerator.gather_for_metrics((predictions, labels))
            args.log.append((predictions == references).float().mean().item())
