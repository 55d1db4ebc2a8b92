"""What is done with ffmpeg and PyAV: their words, their errors, their looks at media, each in a supervised child."""
