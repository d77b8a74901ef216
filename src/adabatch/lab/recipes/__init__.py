"""Recipes: one file per figure of a paper, read top to bottom; `python -m adabatch.lab.recipes.NAME --help` runs one.

They need `adabatch[all]`. Each writes its result file, a picture, every single run and its own code.
"""
