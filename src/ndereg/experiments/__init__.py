"""The papers' experiments as recipes on the public API: ``ndereg train``, ``ndereg compare``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ndereg.experiments.choices import refuse_unknown

if TYPE_CHECKING:
    from ndereg.experiments.recipe import Recipe
    from ndereg.experiments.study import Study

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


STUDIES = {
    "cir": "ndereg.experiments.cir:Cir",
    "langevin": "ndereg.experiments.langevin:Langevin",
}
"""What is computed, not trained, by name."""


def lookup(name: str) -> Recipe:
    """Return the recipe of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name in STUDIES:
        raise ValueError(
            f"expected a recipe that is trained, received the study {name!r}; try ndereg compare "
            f"{name}"
        )
    return _found(name, RECIPES)


def experiment(name: str) -> Recipe | Study:
    """Return the recipe or the study of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    return _found(name, RECIPES | STUDIES)


def _found(name: str, known: dict[str, str]) -> Any:
    refuse_unknown("a recipe", (name,), known)
    module, attribute = known[name].split(":")
    return getattr(import_module(module), attribute)()


def overview() -> str:
    """Return what recipes have to choose from, a paragraph for each: presets and rows."""
    recipes = [lookup(name) for name in RECIPES]
    trained = [
        f"{recipe.name}: presets {', '.join(recipe.presets)}; rows {', '.join(recipe.regularizers)}"
        for recipe in recipes
    ]
    studies = [
        f"{name} (compare only): presets {', '.join(found.presets)}; rows {', '.join(found.rows)}"
        for name in STUDIES
        if (found := _found(name, STUDIES))
    ]
    return "\n\n".join([*trained, *studies])
