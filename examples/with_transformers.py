"""Hugging Face Trainer with a batch that grows from 16 to 64: one line more than without.

Run it: pip install 'adabatch[transformers,data]', then: python examples/with_transformers.py
On two processes: torchrun --nproc-per-node 2 examples/with_transformers.py
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments

import adabatch as ab
from adabatch.integrations.transformers import grow


class Network(torch.nn.Module):
    """Two layers, with its loss beside its scores as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 10)
        )

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and scores of a batch."""
        scores = self.layers(pixels)
        return {"loss": torch.nn.functional.cross_entropy(scores, labels), "logits": scores}


def main() -> None:
    """Trains on scans of digits."""
    images, digits = load_digits(return_X_y=True)
    rows = [{"pixels": torch.tensor(x / 16).float(), "labels": int(y)} for x, y in zip(images, digits, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=16,
            num_train_epochs=6,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            eval_strategy="epoch",
            save_strategy="epoch",  # `trainer.train(resume_from_checkpoint=True)` goes on
            logging_steps=20,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            Network(),
            args,
            train_dataset=rows[:1500],
            eval_dataset=rows[1500:],
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
        )
        growth = grow(trainer, ab.schedules.geometric(2, ab.epochs(2), maximum=64), coupling="sqrt")
        trainer.train()
        steps, accuracy = trainer.state.global_step, trainer.evaluate()["eval_accuracy"]
        if trainer.is_world_process_zero():
            assert growth.batches is not None
            print(f"{steps} updates of {growth.batches.plan.updates}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
