"""A loop in the manner of the much used CIFAR-10 training in PyTorch; here its batch grows."""

import torch

import adabatch as ab


def main(args, model, train_set, test_set):
    trainloader = ab.DataLoader(train_set, batch_size=args.batch_size, shuffle=True, num_workers=0)
    testloader = torch.utils.data.DataLoader(test_set, batch_size=100, shuffle=False, num_workers=0)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    batches = ab.BatchSizeScheduler(optimizer, trainloader, ab.schedules.geometric(2, ab.epochs(1)), epochs=args.epochs)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)

    def train():
        model.train()
        train_loss = 0
        for batch_idx, (inputs, targets) in enumerate(trainloader):
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            batches.step()
            train_loss += loss.item()
            args.log.append(train_loss / (batch_idx + 1))

    def test():
        model.eval()
        with torch.no_grad():
            for inputs, targets in testloader:
                args.log.append(criterion(model(inputs), targets).item())

    for _ in range(args.epochs):
        train()
        test()
        scheduler.step()
