"""Forward processes: DDPM and IADB."""
