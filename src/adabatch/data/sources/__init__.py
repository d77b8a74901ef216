"""Sources: where a loader gets its batches from."""
