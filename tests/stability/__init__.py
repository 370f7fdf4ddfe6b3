"""What the runs of ``make stability`` say: which remedy holds what, and when the watch warned."""
