"""`digits`: scikit-learn's 1,797 handwritten digits of 8×8 pixels, part of its installation."""

from __future__ import annotations

from mutransfer.config.data import DigitsSection
from mutransfer.data.dataset import ClassDataset, need_extra


def load(section: DigitsSection) -> ClassDataset:
    """Load all digits as (N, 1, 8, 8)."""
    digits = need_extra("sklearn.datasets", "vision", "digits").load_digits()
    return ClassDataset(
        digits.images[:, None],
        digits.target,
        classes=section.spec.classes,
        validation_fraction=section.validation_fraction,
        label="digits",
    )
