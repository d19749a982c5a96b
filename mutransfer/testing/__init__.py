"""Contract suites for plug-ins. They need pytest, and run in the test suite of any package."""
