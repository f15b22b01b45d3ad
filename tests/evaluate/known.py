"""Clips whose answer is known, made on the spot: uint8 [f h w 3]."""

import numpy as np

HEIGHT, WIDTH = 36, 64


def texture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, cell: int = 8) -> np.ndarray:
    """A smooth colourful picture float64 [h w 3] of 60 to 190 levels that wraps around at its edges."""
    draws = np.random.default_rng(seed)
    rows, columns = 2 * np.pi * np.arange(height) / height, 2 * np.pi * np.arange(width) / width
    picture = np.zeros((height, width, 3))
    for _ in range(12):
        down, across = draws.integers(1, height // cell + 1), draws.integers(1, width // cell + 1)
        wave = np.sin(down * rows[:, None] + draws.uniform(0, 6.28)) * np.sin(across * columns + draws.uniform(0, 6.28))
        picture += draws.uniform(-1, 1, 3) * wave[..., None]
    low, high = picture.min(), picture.max()
    return 60 + 130 * (picture - low) / (high - low)


def eight_bit(frames: np.ndarray) -> np.ndarray:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def still(num_frames: int, seed: int = 0, **size: int) -> np.ndarray:
    """One picture over and over."""
    return np.repeat(eight_bit(texture(seed, **size))[None], num_frames, axis=0)


def pan(num_frames: int, right: int = 1, down: int = 0, seed: int = 0, **size: int) -> np.ndarray:
    """The picture moves by whole pixels each frame and wraps around."""
    picture = eight_bit(texture(seed, **size))
    return np.stack([np.roll(picture, (index * down, index * right), (0, 1)) for index in range(num_frames)])


def lit(levels: np.ndarray | list[float], seed: int = 0) -> np.ndarray:
    """A still picture with this many levels added to each of its frames."""
    return eight_bit(texture(seed)[None] + np.asarray(levels, np.float64)[:, None, None, None])


def grainy(num_frames: int, deviation: float, seed: int = 0) -> np.ndarray:
    """Middle grey with white noise, new in each frame and equal in the three colours."""
    draws = np.random.default_rng(seed)
    grain = np.rint(128 + deviation * draws.standard_normal((num_frames, HEIGHT, WIDTH, 1)))
    return np.repeat(np.clip(grain, 0, 255).astype(np.uint8), 3, axis=-1)
