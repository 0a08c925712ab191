"""A report in words: on a terminal, as JSON, as JUnit XML, as a page."""
