"""Results for people: tables, Markdown, a page."""
