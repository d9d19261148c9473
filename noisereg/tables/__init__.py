"""Ablation tables: rows, statistics, formats."""
