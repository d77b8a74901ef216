"""A loop in the manner of minGPT's trainer: it draws from the data for so many iterations; here its batch grows."""

import torch
from torch.nn import functional

import adabatch as ab


class Trainer:
    def __init__(self, config, model, train_dataset):
        self.config = config
        self.model = model
        self.train_dataset = train_dataset
        self.iter_num = 0

    def run(self):
        model, config = self.model, self.config
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95))
        train_loader = ab.DataLoader(self.train_dataset, shuffle=True, batch_size=config.batch_size)
        growth = ab.schedules.geometric(2, ab.epochs(1), maximum=32)
        batches = ab.BatchSizeScheduler(self.optimizer, train_loader, growth, coupling="sqrt")
        model.train()
        data_iter = iter(train_loader)
        while True:
            try:
                batch = next(data_iter)
            except StopIteration:
                data_iter = iter(train_loader)
                batch = next(data_iter)
            x, y = batch
            self.loss = functional.cross_entropy(model(x), y)
            model.zero_grad(set_to_none=True)
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self.optimizer.step()
            batches.step()
            config.log.append((self.iter_num, self.loss.item()))
            self.iter_num += 1
            if config.max_iters is not None and train_loader.clock >= config.max_iters * config.batch_size:
                break


def main(args, model, train_set, test_set):
    args.max_iters = args.epochs * len(train_set) // args.batch_size
    Trainer(args, model, train_set).run()
