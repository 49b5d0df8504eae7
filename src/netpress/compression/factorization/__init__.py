"""Factorizing: curvature of the loss, which rows and columns matter, truncation, and regrowth.

layers.py finds the layers, curvature.py measures, selection.py decides on ranks, truncation.py and surgery.py put
them into effect, regrowth.py adds rows and columns again.
"""
