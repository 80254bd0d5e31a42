"""Our own GFL detector (Generalized Focal Loss): its head, which cells learn which object, and what they cost."""
