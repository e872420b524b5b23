"""One comparison in the terminal: tokens, choices and answers."""
