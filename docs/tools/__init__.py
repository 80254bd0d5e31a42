"""What makes the documentation site of the repository's own pages."""
