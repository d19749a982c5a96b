"""The sweep: the space, the study that records trials, the coordinator that runs them, the selection of the best."""
