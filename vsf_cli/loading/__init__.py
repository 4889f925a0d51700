"""Makes diffusers pipelines ready: weights, LoRA files, schedulers, offload."""
