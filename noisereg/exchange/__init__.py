"""Runs to diffusers: exported folders, a scheduler and a pipeline. What comes from diffusers is
:mod:`noisereg.runs.pretrained`.
"""
