"""The method, without any GUI: reading, the diffusion model, sampling, uncertainty."""
