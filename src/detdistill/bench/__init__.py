"""Measures what distillation costs, always against a floor in the same run."""
