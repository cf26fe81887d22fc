"""Training and evaluation of the diffusion model; run from a checkout, not installed."""
