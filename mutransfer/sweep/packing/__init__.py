"""How many trials train together, on how many workers: chosen by measurement, remembered for later sweeps."""
