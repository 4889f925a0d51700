"""Images and videos as files, with their metadata."""
