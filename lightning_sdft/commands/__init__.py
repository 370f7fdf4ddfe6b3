"""Subcommands of the command line that are plain functions, one file each."""
