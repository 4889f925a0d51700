"""From a request to images and videos on a pipeline: guidance, plans, runs, output files."""
