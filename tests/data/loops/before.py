"""A loop in the manner of nanoGPT: it draws its own batches and accumulates a fixed number of them."""

import math

import torch

batch_size, block_size, gradient_accumulation_steps = 3, 4, 4
max_iters, eval_interval, learning_rate = 24, 10, 1e-2


def get_batch(data):
    at = torch.randint(len(data) - block_size, (batch_size,))
    return torch.stack([data[i : i + block_size] for i in at]), torch.stack([data[i + block_size] for i in at])


def get_lr(step):
    return learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max_iters)))


def train(model, data, checkpoint=None, stop=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    iter_num = 0
    saved = []
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        iter_num = checkpoint["iter_num"]
    while iter_num < max_iters and iter_num != stop:
        for group in optimizer.param_groups:
            group["lr"] = get_lr(iter_num)
        if iter_num % eval_interval == 0:
            saved.append({
                "model": {name: value.clone() for name, value in model.state_dict().items()},
                "optimizer": optimizer.state_dict(),
                "iter_num": iter_num,
            })  # fmt: skip
        for micro_step in range(gradient_accumulation_steps):
            if hasattr(model, "require_backward_grad_sync"):
                model.require_backward_grad_sync = micro_step == gradient_accumulation_steps - 1
            inputs, targets = get_batch(data)
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss = loss / gradient_accumulation_steps
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        iter_num += 1
    return saved
