"""How the embedded models and their judge were trained, and how they are measured. Not part of the wheel."""

import os

# Transformers tells developers what it imports, unless it is told before that.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
