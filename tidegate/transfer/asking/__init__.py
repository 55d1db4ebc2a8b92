"""One question to an origin, and what its answer means."""
