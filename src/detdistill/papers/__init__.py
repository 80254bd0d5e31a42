"""The papers' published rows: what they say, the data and trainings they need, and the table beside ours."""
