"""The five scenes, each in the order it is painted: sky, weather, land, life, and what stands before the subjects."""

from heliograph.data.diorama.record import Scene
from heliograph.data.diorama.scenery import Place
from heliograph.data.diorama.scenes.desert import DESERT
from heliograph.data.diorama.scenes.meadow import MEADOW
from heliograph.data.diorama.scenes.mountains import MOUNTAINS
from heliograph.data.diorama.scenes.reef import REEF
from heliograph.data.diorama.scenes.sea import SEA

PLACES: dict[Scene, Place] = {"reef": REEF, "meadow": MEADOW, "sea": SEA, "desert": DESERT, "mountains": MOUNTAINS}
"""How each scene is painted."""
