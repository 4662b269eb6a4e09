"""All kinds of broken input."""

from tests.fuzz.checkpoints import CHECKPOINTS
from tests.fuzz.images import IMAGES
from tests.fuzz.model_folders import FOLDERS
from tests.fuzz.outcomes import Category
from tests.fuzz.recipes import OVERRIDES, RECIPES
from tests.fuzz.records import RECORDS
from tests.fuzz.results import RESULTS
from tests.fuzz.tables import TABLES, YAMLS

CATEGORIES: tuple[Category, ...] = (RECIPES, OVERRIDES, RECORDS, IMAGES, FOLDERS, CHECKPOINTS, TABLES, YAMLS, RESULTS)
