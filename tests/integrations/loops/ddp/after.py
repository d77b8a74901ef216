"""A loop in the manner of PyTorch's tutorial of DistributedDataParallel; here its batch grows."""

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import adabatch as ab


class Trainer:
    def __init__(self, model, train_data, optimizer, log):
        self.train_data = train_data
        self.optimizer = optimizer
        self.log = log
        self.model = DistributedDataParallel(model)

    def _run_batch(self, source, targets):
        self.optimizer.zero_grad()
        output = self.model(source)
        loss = functional.cross_entropy(output, targets)
        loss.backward()
        self.optimizer.step()
        self.train_data.driver.step()

    def _run_epoch(self, epoch):
        b_sz = len(next(iter(self.train_data))[0])
        self.log.append((epoch, b_sz, len(self.train_data)))
        for source, targets in self.train_data:
            self._run_batch(source, targets)

    def train(self, max_epochs):
        for epoch in range(max_epochs):
            self._run_epoch(epoch)


def prepare_dataloader(dataset, batch_size):
    return ab.DataLoader(dataset, batch_size=batch_size * dist.get_world_size(), shuffle=True)


def main(args, model, train_set, test_set):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    train_data = prepare_dataloader(train_set, args.batch_size // dist.get_world_size())
    ab.BatchSizeScheduler(optimizer, train_data, ab.schedules.geometric(2, ab.epochs(1)), epochs=args.epochs)
    trainer = Trainer(model, train_data, optimizer, args.log)
    trainer.train(args.epochs)
