"""The same loop with a clock: its batch grows from 12 to 24, in micro-batches of 3 as before."""

import math

import torch

import adabatch as ab

batch_size, block_size, gradient_accumulation_steps = 3, 4, 4
max_iters, eval_interval, learning_rate = 24, 10, 1e-2


def get_batch(data):
    at = torch.randint(len(data) - block_size, (batch_size,))
    return torch.stack([data[i : i + block_size] for i in at]), torch.stack([data[i + block_size] for i in at])


def get_lr(step):
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max_iters)))


def train(model, data, checkpoint=None, stop=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    clock = ab.Clock(batch_size=12, micro_batch_size=batch_size, dataset_size=max_iters * 12)
    batches = ab.BatchSizeScheduler(optimizer, clock, ab.schedules.steps("0:12 72:24"), coupling="sqrt", epochs=1)
    iter_num = 0
    saved = []
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        iter_num = checkpoint["iter_num"]
        clock.load_state_dict(checkpoint["clock"])
        batches.load_state_dict(checkpoint["batches"])
    while iter_num < batches.plan.updates and iter_num != stop:
        for group in optimizer.param_groups:
            group["lr"] = get_lr(clock.clock // 12)
        if iter_num % eval_interval == 0:
            saved.append({
                "model": {name: value.clone() for name, value in model.state_dict().items()},
                "optimizer": optimizer.state_dict(),
                "iter_num": iter_num,
                "clock": clock.state_dict(),
                "batches": batches.state_dict(),
            })  # fmt: skip
        for micro in clock.begin():
            if hasattr(model, "require_backward_grad_sync"):
                model.require_backward_grad_sync = micro.is_last
            inputs, targets = get_batch(data)
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss = loss * micro.weight
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        batches.step()
        optimizer.zero_grad(set_to_none=True)
        iter_num += 1
    return saved
