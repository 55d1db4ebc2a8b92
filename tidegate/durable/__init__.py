"""What survives a crash: atomic files, journals, the asset store, secrets."""
