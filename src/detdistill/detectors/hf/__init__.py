"""transformers' detectors with a set of queries: which there are, what they show, how they are built and opened."""
