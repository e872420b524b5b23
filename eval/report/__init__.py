"""How an analysis is shown: the page, the terminal, the verdict."""
