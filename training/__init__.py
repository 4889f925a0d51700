"""How the embedded models and their judge were trained, and how they are measured. Not part of the wheel."""
