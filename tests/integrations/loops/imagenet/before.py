"""A loop in the manner of PyTorch's ImageNet example, which resumes after an epoch."""

import torch
from torch.optim.lr_scheduler import StepLR


def train(train_loader, model, criterion, optimizer, args):
    model.train()
    for i, (images, target) in enumerate(train_loader):
        output = model(images)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % args.print_freq == 0:
            args.log.append((i, len(train_loader), loss.item()))


def validate(val_loader, model, criterion, args):
    model.eval()
    with torch.no_grad():
        losses = [criterion(model(images), target).item() for images, target in val_loader]
    args.log.append(sum(losses) / len(losses))


def main(args, model, train_set, test_set):
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.1)
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = torch.utils.data.DataLoader(test_set, batch_size=args.batch_size, shuffle=False)
    start_epoch = 0
    if args.resume is not None:
        checkpoint = torch.load(args.resume)
        start_epoch = checkpoint["epoch"]
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
    for epoch in range(start_epoch, args.epochs):
        train(train_loader, model, criterion, optimizer, args)
        validate(val_loader, model, criterion, args)
        scheduler.step()
        checkpoint = {
            "epoch": epoch + 1,
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        torch.save(checkpoint, args.folder / f"{epoch}.pt")
