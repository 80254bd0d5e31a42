"""What the public functions do: `stages` is the spine of a run, every other module one job.

A job prints nothing. It takes a `RunConfig` or a few arguments, and returns a result with `table()` (lines of text for
people) and `as_dict()` (for JSON). Whatever cannot be used raises a `DistillError` of one sentence, and a run that a
signal stops raises `Interrupted` once its checkpoint is saved.
"""
