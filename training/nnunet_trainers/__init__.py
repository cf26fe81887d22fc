"""Read by nnU-Net in its own process, through ``nnUNet_extTrainer``; nothing here imports it."""
