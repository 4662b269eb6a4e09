"""All kinds of broken input."""

from tests.fuzz.model_folders import FOLDERS
from tests.fuzz.outcomes import Category

CATEGORIES: tuple[Category, ...] = (FOLDERS,)
