"""The text of prompts: weights, vocabulary, search and replace."""
