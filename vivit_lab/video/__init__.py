"""Video files in and out: clips, decoding, sampling, encoding."""
