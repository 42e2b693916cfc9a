"""Runs from the folders of diffusers, and back: model_index.json, unet, vae or vqvae, text_encoder, tokenizer,
scheduler.

Weights go both ways bit for bit, and what they mean goes with them: schedule, prediction, the scale of latents, and w,
which is 0 for no guidance here and a guidance scale of 1 + w there. What one side cannot say is refused.
"""

from guided_distill.interchange.exporting import export_pipeline
from guided_distill.interchange.importing import import_pipeline

__all__ = ["export_pipeline", "import_pipeline"]
