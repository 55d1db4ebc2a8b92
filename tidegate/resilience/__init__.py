"""Decisions about time and repetition: pure, with the clock passed in."""
