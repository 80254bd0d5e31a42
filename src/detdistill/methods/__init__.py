"""One published method per file: settings with the paper's numbers, and the wiring of its terms."""
