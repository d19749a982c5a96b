"""Contract suites for plug-ins, one per kind. They need pytest, and run in the test suite of any package."""

import pkgutil

import pytest

# So that a failed assert shows its values.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
