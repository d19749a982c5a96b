import pytest

# Suites that several test modules inherit: their asserts are to explain themselves as those of test modules do.
pytest.register_assert_rewrite("tests.contracts.data_sources", "tests.contracts.executors", "tests.contracts.models")
