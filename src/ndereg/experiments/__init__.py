"""The papers' experiments as recipes on the public API: ``ndereg train``, ``ndereg compare``."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndereg.experiments.recipe import Recipe

RECIPES = {
    "digits": "ndereg.experiments.digits:Digits",
    "ffjord": "ndereg.experiments.ffjord:Ffjord",
    "latent-sde": "ndereg.experiments.latent_sde:LatentSDE",
    "mnist": "ndereg.experiments.mnist:Mnist",
    "mnist-sde": "ndereg.experiments.mnist_sde:MnistSDE",
    "physionet": "ndereg.experiments.physionet:PhysioNet",
    "sde-gan": "ndereg.experiments.sde_gan:SDEGAN",
    "spiral": "ndereg.experiments.spiral:Spiral",
    "spiral-sde": "ndereg.experiments.spiral_sde:SpiralSDE",
}
"""Recipes by name; a recipe's module is imported when it is asked for."""


def lookup(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"expected a recipe among {', '.join(RECIPES)}, received {name!r}{hint}")
    module, attribute = RECIPES[name].split(":")
    return getattr(import_module(module), attribute)()


def overview() -> str:
    """Return what recipes have to choose from, a paragraph for each: presets and rows."""
    recipes = [lookup(name) for name in RECIPES]
    return "\n\n".join(
        f"{recipe.name}: presets {', '.join(recipe.presets)}; rows {', '.join(recipe.regularizers)}"
        for recipe in recipes
    )
