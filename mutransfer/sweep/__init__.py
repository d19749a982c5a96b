"""The sweep: what to try, the study that records it, the coordinator that has it run, what came out best."""
