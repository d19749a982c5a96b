"""Contract suites for plug-ins. They need pytest, and run in the test suite of any package."""

import pytest

pytest.register_assert_rewrite("mutransfer.testing")  # so that a failed assert shows its values
