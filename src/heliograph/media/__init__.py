"""Frames in and out of files: reading images and clips, writing mp4, GIF, contact sheets and arrays."""
