"""One HTML file that tells what a run came to and needs no network: what stands on it, and how it is drawn."""
