"""The public functions, with the command line's own words as plain arguments; `detdistill` names them all."""
