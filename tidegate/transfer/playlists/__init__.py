"""Playlists as values: what HLS and DASH texts say, without touching the outside."""
