"""Enlarged frames: the same at factor 1, larger otherwise, flat colours untouched."""

import numpy as np

from heliograph.media.enlarge import enlarge


def test_factor_one_gives_the_frames_themselves():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    assert enlarge(frames, 1) is frames


def test_flat_frames_stay_flat_and_shapes_keep_their_place():
    frames = np.full((2, 8, 6, 3), 77, np.uint8)
    frames[1, 2:4] = 200
    large = enlarge(frames, 4)
    assert large.shape == (2, 32, 24, 3) and large.dtype == np.uint8
    assert (large[0] == 77).all()
    assert (large[1].reshape(8, 4, 24, 3).mean((1, 2, 3))[6:] == 77).all()
    assert large[1, 8:16].mean() > 170
