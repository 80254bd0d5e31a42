"""What a run leaves for people to look at: pictures with boxes, sheets, learning curves and tables."""
