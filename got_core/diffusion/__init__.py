"""The mathematics of diffusion: objectives, guidance, sampling, schedulers and latent codecs."""
