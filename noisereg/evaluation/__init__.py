"""Metrics, feature spaces and ablation tables."""
