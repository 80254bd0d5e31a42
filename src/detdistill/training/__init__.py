"""Training: the loop, its settings, checkpoints that resume exactly, logs and progress.

It is given a step, a loader and an evaluation as callables, and knows no recipe.
"""
