"""Stands in for a pipeline before it is loaded, as far as its configuration files say what it is."""

from types import SimpleNamespace
from typing import Any

from vsf_cli.loading.sources import read_configuration

__all__ = ["configured_pipe"]


class _Configuration(dict[str, Any]):
    """A configuration whose values are attributes, too, as those of diffusers are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def configured_pipe(model: str, revision: str | None) -> Any:
    """Returns what has the attributes of a pipeline that decide what it can make, without weights and without torch.

    None if a configuration file is not on this machine, or does not say enough.
    """
    index, autoencoder, scheduler, transformer, unet = (
        _Configuration(read_configuration(model, revision, path))
        for path in (
            "model_index.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
            "transformer/config.json",
            "unet/config.json",
        )
    )
    levels = (autoencoder.get(name) for name in ("block_out_channels", "dim_mult", "encoder_block_out_channels"))
    halvings = len(next(filter(None, levels), ())) - 1
    denoiser = transformer or unet
    if not (scheduler and denoiser and halvings > 0):
        return None
    spatial = autoencoder.get("scale_factor_spatial") or autoencoder.get("spatial_compression_ratio") or 2**halvings
    temporal = autoencoder.get("scale_factor_temporal") or autoencoder.get("temporal_compression_ratio") or 4
    return SimpleNamespace(
        vae_scale_factor=spatial,
        vae_scale_factor_spatial=spatial,
        vae_spatial_compression_ratio=spatial,
        vae_scale_factor_temporal=temporal,
        vae_temporal_compression_ratio=temporal,
        transformer_spatial_patch_size=denoiser.get("patch_size"),
        transformer_temporal_patch_size=denoiser.get("patch_size_t"),
        patch_size=index.get("patch_size"),
        scheduler=SimpleNamespace(config=scheduler),
        transformer=SimpleNamespace(config=transformer) if transformer else None,
        unet=SimpleNamespace(config=unet) if unet else None,
    )
