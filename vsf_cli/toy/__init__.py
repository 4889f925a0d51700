"""The built-in models: their scenes, drawings, sizes, judge and weights. No package before it uses them."""
