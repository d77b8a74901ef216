"""Reports of studies of the batch size: page, pictures, tables, sentences, CSV files."""
