"""A transcode in chunks: where the film is cut, what is known of each chunk, and how they become one film again."""
