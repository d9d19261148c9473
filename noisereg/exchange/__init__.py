"""Models to and from diffusers."""
