"""What an experiment says: rows, tables and pictures of what came out of its runs."""
