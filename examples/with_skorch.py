"""skorch with a batch that grows from 16 to 64: a callback more than without.

Run it: pip install 'adabatch[skorch]', then: python examples/with_skorch.py
"""

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier

import adabatch as ab
from adabatch.integrations.skorch import Growth


def main() -> None:
    """Trains on scans of digits."""
    images, digits = load_digits(return_X_y=True)
    inputs = (images / 16).astype("float32")
    net = NeuralNetClassifier(
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=2e-3,
        max_epochs=6,
        batch_size=16,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        callbacks=[Growth(ab.schedules.geometric(2, ab.epochs(2), maximum=64), coupling="sqrt")],
    )
    net.fit(inputs[:1500], digits[:1500])
    updates = sum(net.history[:, "train_batch_count"])
    planned = dict(net.callbacks_)["Growth"].batches_.plan.update_at(6 * 1500)
    print(f"{updates} updates of {planned}, accuracy {net.score(inputs[1500:], digits[1500:]):.3f}")


if __name__ == "__main__":
    main()
