"""Exact attention with its log-sum-exp on every device, without a mask, and guidance by it.

Notation, here and in `methods`: B batch, H heads, D head dimension, I image tokens, P positive text tokens, N negative text
tokens.

Two partial attentions over disjoint keys merge exactly when each comes with its log-sum-exp
:math:`L = \\log \\sum_j \\exp(q k_j^T / \\sqrt{D})`, since their softmax masses are in the ratio
:math:`e^{L_1} : e^{L_2}`. That is all that guidance inside attention needs, and it leaves the large call to the fastest kernel
that the device has. `fused` does the rest in one kernel where Triton runs, and `merging` in a few calls elsewhere.
"""
