"""Pages, pictures and tables of branchings."""
