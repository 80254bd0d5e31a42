"""Attacks on what is promised about files, runs and refusals: seeded, resumable, counted; `make attack` runs them."""
