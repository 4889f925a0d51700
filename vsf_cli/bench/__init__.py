"""`vsf bench`: what negative guidance costs, methods side by side in one process. The paper's Table 2, for any machine."""
