"""What is timed, by whom, and how: pytest runs it."""
