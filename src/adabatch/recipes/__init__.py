"""Recipes: one file per figure of a paper, read top to bottom; run one with `python -m adabatch.recipes.NAME --help`.

They need `adabatch[all]`. Each writes its result file, a picture, every single run and its own code.
"""
