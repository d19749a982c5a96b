"""Contract suites for what other packages plug in; they need pytest."""
