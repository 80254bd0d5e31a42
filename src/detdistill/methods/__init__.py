"""What the student imitates: one module per method, made of the words in `parts`.

A method is built by a function (student spec, teacher spec, settings) → recipe, or, if it changes another one, (that
one's recipe, built for the same two detectors, student spec, teacher spec, settings) → recipe. Its documentation says
the formula, what both detectors must offer, the source, and where it differs from that; `detdistill methods NAME`
prints it.
"""
