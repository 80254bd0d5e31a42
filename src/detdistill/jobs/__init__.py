"""What the command line does, callable from Python: one job per module, plain settings in, a result out.

A job prints nothing. It takes a `RunConfig` (`detdistill.jobs.settings`) or a few arguments, and returns a result with
`table()` (lines of text for people) and `as_dict()` (for JSON).
"""
