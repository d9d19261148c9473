"""From runs, sweeps and folders of images to numbers: samples, what they are compared with, and
their measurement.
"""
