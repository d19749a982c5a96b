"""From a swept proxy to its target: the config, what it costs, why it may not hold, its launch."""
