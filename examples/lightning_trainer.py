"""Lightning with the coordinate check in its loggers: `python examples/lightning_trainer.py --lr 0.01`."""

import argparse

import lightning as L
import torch
import mutransfer as mt
from mutransfer.integrations import CoordinateProbe, LightningCoordinates

parser = argparse.ArgumentParser()
for name, default in {"width": 64, "base-width": 32, "lr": 0.01, "steps": 100, "seed": 0, "out": "output"}.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
given = parser.parse_args()
data = (torch.randint(64, (64 * given.steps, 1)) + torch.randint(1, 5, (64 * given.steps, 1)) * torch.arange(3)) % 64


class Model(L.LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.hidden = torch.nn.Embedding(64, width), torch.nn.Linear(2 * width, width)
        self.head = torch.nn.Linear(width, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # the third token from the first two
        return self.head(self.hidden(self.table(tokens).flatten(1)).relu())

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self(batch[:, :2]), batch[:, 2])
        print(f"step {self.global_step}: loss {loss.item()}")  # every batch is new
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(mt.parameter_groups(self, plan, lr=given.lr))


plan = mt.plan_for(Model, width=given.width, base_width=given.base_width)
model = Model(given.width)
mt.initialize(model, plan, seed=given.seed)
look = LightningCoordinates(CoordinateProbe(data[:64, :2], every=20))
L.Trainer(max_epochs=1, callbacks=[look], default_root_dir=given.out).fit(model, torch.utils.data.DataLoader(data, 64))
