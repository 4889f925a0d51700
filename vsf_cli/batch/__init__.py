"""A table of prompts to a folder of images and videos: resumable, and on one machine or many."""
