"""Tidegate's tests, a package so that `python -m tests.support.origin` works from the project folder."""
