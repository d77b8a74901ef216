"""Lightning with a batch that grows from 16 to 64: a loader and a callback more than without.

Run it: pip install 'adabatch[lightning,data]', then: python examples/with_lightning.py
"""

import tempfile
from typing import Any

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import adabatch as ab
from adabatch.integrations.lightning import BatchGrowth


class Network(pl.LightningModule):
    """Two layers, and an LR that falls as a cosine over the training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean loss of a micro-batch."""
        return torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the accuracy."""
        self.log("accuracy", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        """Adam, and the cosine in updates of the first batch size."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        updates = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def main() -> None:
    """Trains on scans of digits."""
    images, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(digits))
    train, test = torch.utils.data.Subset(data, range(1500)), torch.utils.data.Subset(data, range(1500, len(data)))
    loader = ab.DataLoader(train, batch_size=16, shuffle=True, micro_batch_size=32)  # at most 32 in one pass
    growth = BatchGrowth(loader, ab.schedules.geometric(2, ab.epochs(2), maximum=64), coupling="sqrt")
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=6,
            callbacks=[growth, pl.callbacks.ModelCheckpoint(folder)],  # `fit(..., ckpt_path=...)` goes on
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Network(), growth, torch.utils.data.DataLoader(test, batch_size=297))
    assert growth.length is not None
    accuracy = float(trainer.callback_metrics["accuracy"])
    print(f"{trainer.global_step} updates of {growth.length.updates}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
