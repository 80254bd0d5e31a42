"""The one-way pipeline: a term compares, a recipe lists terms, a step adds it all up."""
