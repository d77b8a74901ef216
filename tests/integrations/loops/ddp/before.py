"""A loop in the manner of PyTorch's tutorial of DistributedDataParallel."""

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


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

    def _run_epoch(self, epoch):
        b_sz = len(next(iter(self.train_data))[0])
        self.log.append((epoch, b_sz, len(self.train_data)))
        self.train_data.sampler.set_epoch(epoch)
        for source, targets in self.train_data:
            self._run_batch(source, targets)

    def train(self, max_epochs):
        for epoch in range(max_epochs):
            self._run_epoch(epoch)


def prepare_dataloader(dataset, batch_size):
    return DataLoader(dataset, batch_size=batch_size, shuffle=False, sampler=DistributedSampler(dataset))


def main(args, model, train_set, test_set):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    train_data = prepare_dataloader(train_set, args.batch_size // dist.get_world_size())
    trainer = Trainer(model, train_data, optimizer, args.log)
    trainer.train(args.epochs)
