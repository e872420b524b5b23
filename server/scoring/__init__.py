"""From a request to its reply: tokens, scores, numbers."""
