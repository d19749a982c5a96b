"""Does a pack of a foreign model train what its members train by themselves?

Foreign code may do in a forward pass what a pack loses: give a buffer another tensor, count calls, keep state outside
of buffers.
"""

from __future__ import annotations

import itertools
import json

import torch
from torch import Tensor

from mutransfer.config.schema import RunConfig
from mutransfer.data.dataset import Dataset
from mutransfer.training.learner import Learner
from mutransfer.training.loss import counted
from mutransfer.training.pack import CannotPack, PackLearner

_STEPS, _TRIED = 3, 30
_EXAMPLES = 4
_TOLERANCE = 1e-3
_SEEN: set[str] = set()


def require_alike(config: RunConfig, data: Dataset) -> None:
    """Train two members of a foreign model for a few steps, in a pack and by themselves; once per process and model.

    Raises:
        CannotPack: losses or buffers differ.
    """
    known = config.model_dump_json(include={"model", "data", "parametrization", "rules"})
    key = json.dumps([known, str(config.hparams.optimizer), config.training.precision])
    if not config.model.foreign or key in _SEEN:
        return
    chosen = config.hparams.optimizer  # at defaults: an lr that diverges would make everything differ
    hparams = type(config.hparams)(optimizer=chosen, lr=config.hparams.record.most_lr)
    seeds = [config.training.model_copy(update={"seed": seed}) for seed in range(2)]
    members = [config.model_copy(update={"training": training, "hparams": hparams}) for training in seeds]
    tried = (data.batch(step, batch_size=_EXAMPLES, seed=0) for step in range(_TRIED))
    batches = list(itertools.islice((one for one in tried if counted(one, config.model.criterion)), _STEPS))
    if not batches:
        return
    device = torch.device("cpu")
    pack = PackLearner(members, device, graphs=False)
    together = torch.stack([pack.train_step(step, [batch]) for step, batch in enumerate(batches)])
    for index, member in enumerate(members):
        alone = Learner(member, device)
        losses = torch.stack([alone.train_step(step, batch) for step, batch in enumerate(batches)])
        _require_close("its losses", losses, together[:, index])
        packed = dict(pack.member(index).named_buffers())
        for name, buffer in alone.model.named_buffers():
            _require_close(f"its buffer {name}", buffer, packed[name])
    _SEEN.add(key)


def _require_close(what: str, alone: Tensor, packed: Tensor) -> None:
    if not alone.is_floating_point():
        close = torch.equal(alone, packed)
    else:
        size = float(alone.nan_to_num().abs().max()) if alone.numel() else 0.0
        close = torch.allclose(packed, alone, rtol=_TOLERANCE, atol=_TOLERANCE * size, equal_nan=True)
    if not close:
        raise CannotPack(
            f"a pack trains something else than the model by itself: after {_STEPS} steps {what} differ. The model "
            "keeps state that a pack loses, such as a buffer that a forward pass assigns instead of changing it in "
            "place; --pack 1 trains one by one"
        )
