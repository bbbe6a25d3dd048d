"""Keyed random bits. `reference` is the ground truth; every other kernel gives the same bits."""
