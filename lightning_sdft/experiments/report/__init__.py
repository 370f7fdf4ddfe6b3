"""The report of an experiment: rows, tables and pictures of the results of its runs."""
