"""A transcode in pieces: where the film is cut, what is known of each piece, and how they become one film again."""
