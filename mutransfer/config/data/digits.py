"""`data: {kind: digits}`."""

from __future__ import annotations

from typing import Literal

from mutransfer.config.data.base import BaseDataSection, ClassSpec


class DigitsSection(BaseDataSection):
    """scikit-learn's 8×8 digits (extra `vision`)."""

    implementation = "mutransfer.data.digits:load"

    kind: Literal["digits"]
    """Data kind."""

    @property
    def spec(self) -> ClassSpec:  # noqa: D102
        return ClassSpec(shape=(1, 8, 8), classes=10)
