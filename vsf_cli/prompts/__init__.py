"""What stands in prompts: weights, vocabulary, search and replace."""
