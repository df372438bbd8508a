"""What may be said of numbers over clips: intervals, tests, ranks."""
