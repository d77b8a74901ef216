"""Comparisons of training runs: arms, seeds, statistics, claims, and throughput against batch size."""
