"""What a trainer can do, as data. The code of each trainer is in `training.trainers`, by the same name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerFacts:
    """Name and abilities of a trainer. The rest of the code asks for an ability, never for a name."""

    name: str
    """Name in the registry `training.trainers.TRAINERS`."""
    packs: bool
    """Whether a worker can train several trials at once as one program, and time a few steps to find the best number
    of them."""
    inspectable: bool
    """Whether the model can be built in this process. Plans, coordinate checks, counts of FLOPs and exports of every
    parameter need that."""
    resumes: bool
    """Whether it continues an interrupted run."""
    several_devices: bool
    """Whether one run of `mutransfer train` uses every visible device of the machine. A trial always has the device of
    its worker."""
    watched: bool
    """Whether its trials report their steps and losses. Pruners and `search.hang_after` need that."""
    project_data: bool
    """Whether it trains on the data of the `data:` section."""


IN_PROCESS = TrainerFacts(
    "in-process", packs=True, inspectable=True, resumes=True, several_devices=False, watched=True, project_data=True
)
COMMAND = TrainerFacts(
    "command", packs=False, inspectable=False, resumes=True, several_devices=True, watched=False, project_data=False
)
