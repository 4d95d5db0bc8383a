"""The strategies, a file for each kind."""
