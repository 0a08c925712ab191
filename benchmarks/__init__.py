"""How fast it is: what measures (`measure`), what judges (`judge`), what draws (`draw`)."""
