"""How a run's outcome is told: one JSON document, one page, one panel."""
