"""The probe child: a folder that is run as a program of its own, and imports nothing of ours but its own modules."""
