"""One training step and one loop, for proxies, targets and everything that checks them."""
