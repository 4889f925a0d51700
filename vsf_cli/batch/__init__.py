"""A table of prompts to a folder of pictures and clips: resumable, and on one machine or many."""
