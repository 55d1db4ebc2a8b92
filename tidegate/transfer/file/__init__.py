"""One file: tries, connections, ranges, journal, digest; the same from several places."""
