"""Settings of a run: presets, the user's file, the environment, and which of them decides."""
