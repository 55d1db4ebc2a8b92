"""One thin Prefect task per stage: look for its checkpoint, call the engine, record what happened."""
