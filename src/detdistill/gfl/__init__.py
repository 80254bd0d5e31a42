"""GFL (Generalized Focal Loss) without its network: which cells learn which object, and what they cost."""
