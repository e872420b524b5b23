"""What a run says: every statistic with its interval, tests, floor and null."""
