"""The words of a recipe as pure functions on tensors and types: select, align, compare, focus, normalize."""
