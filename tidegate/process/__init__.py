"""Child processes that end: supervised, watched for progress, and gone with everything they started."""
