"""Amortised inference: an encoder, trained once, from a person's data to the distribution of its random effects."""

from deepnlme.amortised.encoder import Encoder, amortise, load_encoder

__all__ = ["Encoder", "amortise", "load_encoder"]
