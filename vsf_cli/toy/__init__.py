"""The embedded models as they run: scenes, drawings, sizes, the judge and the weights. The library knows nothing of them."""
