"""What is behind the characters: flat paper, or a scene's coloured gradient and texture."""

import numpy as np
from PIL import Image

from proxyv.pages.page import PageSpec

# Mean brightness of scenes with dark ink and with light ink; both leave room for the ink's contrast.
LIGHT, DARK = (165.0, 225.0), (30.0, 85.0)
# Greatest difference of a colour channel from the mean brightness, in grey levels.
TINT = 25.0


def paper(rng: np.random.Generator, spec: PageSpec) -> np.ndarray:
    """Flat light paper, float32 of shape (height, width, 1), in grey levels."""
    width, height = spec.size
    level = 255.0 - rng.uniform(0.0, spec.difficulty.paper)
    return np.full((height, width, 1), level, np.float32)


def scenery(rng: np.random.Generator, spec: PageSpec, dark: bool) -> np.ndarray:
    """A tinted gradient with soft clouds and, where the difficulty asks for it, fine grain.

    Returns float32 of shape (height, width, 3), in grey levels.
    """
    width, height = spec.size
    texture = spec.difficulty.texture
    mean = rng.uniform(*(DARK if dark else LIGHT)) + rng.uniform(-TINT, TINT, size=3)
    angle = rng.uniform(0.0, 2 * np.pi)
    across = np.linspace(-1, 1, width, dtype=np.float32)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope = (np.cos(angle) * across + np.sin(angle) * down) / np.sqrt(2)
    shape = 0.6 * slope + 0.4 * _clouds(rng, 4, spec)
    if spec.difficulty.grain:
        shape = 0.7 * shape + 0.3 * _clouds(rng, 2 * max(spec.rows, spec.columns), spec)
    tints = rng.uniform(0.6, 1.0, size=3)
    return (mean + texture * shape[..., None] * tints).astype(np.float32)


def _clouds(rng: np.random.Generator, knots: int, spec: PageSpec) -> np.ndarray:
    """Smooth random values in -1 … 1 of shape (height, width), with `knots` independent ones per side."""
    values = Image.fromarray(rng.uniform(-1, 1, (knots, knots)).astype(np.float32))
    return np.asarray(values.resize(spec.size, Image.Resampling.BILINEAR))
