"""Pages, tables and pictures of comparisons, runs, plans and probes; they read files and know no training or study."""
