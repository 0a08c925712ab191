"""What is asked of results, and whether it holds."""
