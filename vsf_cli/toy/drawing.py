"""Draws scenes with Pillow: flat shapes at three times the size, which is then reduced."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from vsf_cli.toy.scenes import COLORS, GROUNDS, OBJECTS, SKIES, Scene

__all__ = ["SIDE", "draw", "part_map"]

SIDE = 96
"""The side of the built-in models' images, in pixels."""

OVERSAMPLING = 3
CLOUD_SPEED = 0.08
"""As a fraction of the side, per second."""

Color = tuple[int, int, int] | None
Point = tuple[float, float]

DARK: Color = (44, 40, 52)
SKIN: Color = (240, 196, 160)
WOOD: Color = (134, 92, 58)
CREAM: Color = (255, 244, 222)
GLASS: Color = (198, 228, 240)


class Pen:
    """Draws shapes in the object's coordinates: -40 to 40, y downwards. A shape without a colour is left out."""

    def __init__(self, image: Image.Image, scene: Scene) -> None:
        self.canvas = ImageDraw.Draw(image)
        self.unit = OVERSAMPLING * SIDE / 96 * scene.scale
        self.center = (OVERSAMPLING * SIDE * (0.5 + scene.x), OVERSAMPLING * SIDE * (0.5 + scene.y))
        self.sign = -1 if scene.mirrored else 1
        self.moment = scene.moment

    def _to_pixels(self, x: float, y: float) -> Point:
        return self.center[0] + self.sign * self.unit * x, self.center[1] + self.unit * y

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        if color is not None:
            self.canvas.polygon([self._to_pixels(*point) for point in points], fill=color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        if color is not None:
            pixels = [self._to_pixels(*point) for point in points]
            self.canvas.line(pixels, fill=color, width=round(width * self.unit), joint="curve")
            for point in (points[0], points[-1]):
                self.disc(*point, width / 2, color)

    def ellipse(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        if color is not None:
            (cx, cy), w, h = self._to_pixels(x, y), width * self.unit, height * self.unit
            self.canvas.ellipse((cx - w, cy - h, cx + w, cy + h), fill=color)

    def disc(self, x: float, y: float, radius: float, color: Color) -> None:
        self.ellipse(x, y, radius, radius, color)

    def ring(self, x: float, y: float, radius: float, width: float, color: Color) -> None:
        if color is not None:
            (cx, cy), r = self._to_pixels(x, y), radius * self.unit
            self.canvas.ellipse((cx - r, cy - r, cx + r, cy + r), outline=color, width=round(width * self.unit))

    def dome(self, x: float, y: float, radius: float, color: Color) -> None:
        """The upper half of a disc."""
        arc = [math.pi * step / 24 for step in range(25)]
        self.polygon([(x + radius * math.cos(angle), y - radius * math.sin(angle)) for angle in arc], color)


def _bike(pen: Pen, body: Color, *, wheels: Color, basket: Color, flag: Color) -> None:
    for x in (-22, 22):
        pen.ring(x, 20, 15, 5, wheels)
        pen.disc(x, 20, 3, wheels)
    if flag is not None:
        pen.line([(-25, 16), (-31, -34)], 2.5, WOOD if body is not None else flag)
    pen.polygon([(-31, -36), (-6, -30), (-29, -20)], flag)
    pen.line([(-22, 20), (-1, 20), (15, -6), (-11, -6), (-22, 20)], 5, body)
    pen.line([(-1, 20), (-13, -12)], 5, body)
    pen.line([(22, 20), (12, -18), (20, -20)], 5, body)
    pen.line([(-19, -13), (-7, -13)], 5, body and DARK)
    pen.polygon([(17, -18), (39, -18), (36, 0), (20, 0)], basket)


def _person(pen: Pen, body: Color, *, umbrella: Color, hat: Color, glasses: Color) -> None:
    pen.box(-20, 28, -12, 40, body and DARK)
    pen.box(-7, 28, 1, 40, body and DARK)
    pen.line([(-4, 12), (20, 8)], 7, body)
    if umbrella is not None:
        pen.line([(21, -16), (21, 16)], 2.5, DARK)
    pen.dome(21, -14, 20, umbrella)
    pen.disc(21, 8, 4, body and SKIN)
    pen.polygon([(-18, 6), (-2, 6), (3, 32), (-23, 32)], body)
    pen.disc(-10, -8, 14, body and SKIN)
    pen.line([(-13, 0), (-7, 0)], 2, body and DARK)
    if glasses is None:
        pen.disc(-15, -9, 2, body and DARK)
        pen.disc(-5, -9, 2, body and DARK)
    for x in (-16.5, -3.5):
        pen.disc(x, -9, 5, glasses and GLASS)
        pen.ring(x, -9, 6.5, 3, glasses)
    pen.line([(-11, -9), (-9, -9)], 2.5, glasses)
    pen.box(-28, -22, 8, -17, hat)
    pen.box(-20, -37, 0, -20, hat)


def _car(pen: Pen, body: Color, *, wheels: Color, windows: Color, lights: Color) -> None:
    pen.polygon([(-26, 2), (-16, -20), (14, -20), (26, 2)], body)
    pen.polygon([(-38, 0), (30, 0), (38, 6), (38, 22), (-38, 22)], body)
    pen.polygon([(-20, 0), (-13, -15), (-2, -15), (-2, 0)], windows)
    pen.polygon([(3, 0), (3, -15), (12, -15), (20, 0)], windows)
    for x in (-36, 36):
        pen.disc(x, 9, 5.5, lights)
    for x in (-20, 20):
        pen.disc(x, 23, 11, wheels)
        pen.disc(x, 23, 4, wheels and CREAM)


def _house(pen: Pen, body: Color, *, roof: Color, door: Color, windows: Color, chimney: Color) -> None:
    pen.box(12, -38, 22, -6, chimney)
    pen.box(-26, -8, 26, 38, body)
    pen.polygon([(-36, -6), (0, -36), (36, -6)], roof)
    pen.box(-7, 14, 7, 38, door)
    for x in (-17, 17):
        pen.box(x - 6, 0, x + 6, 12, windows)


def _tree(pen: Pen, body: Color, *, leaves: Color, apples: Color) -> None:
    pen.polygon([(-6, 40), (6, 40), (4, -10), (-4, -10)], body)
    for end in ((-20, -14), (20, -16), (0, -30)):
        pen.line([(0, 6), end], 4, body)
    for x, y, radius in ((-16, -10, 16), (16, -10, 16), (0, -22, 17)):
        pen.disc(x, y, radius, leaves)
    for x, y in ((-20, -10), (-4, -24), (8, -6), (20, -14), (-6, -4)):
        pen.disc(x, y, 4.5, apples)


def _snowman(pen: Pen, body: Color, *, hat: Color, scarf: Color, carrot: Color) -> None:
    pen.disc(0, 20, 20, body)
    pen.disc(0, -10, 14, body)
    for y in (16, 26):
        pen.disc(0, y, 2.2, body and DARK)
    for x in (-5, 5):
        pen.disc(x, -14, 2.2, body and DARK)
    pen.polygon([(-1, -11), (-1, -4), (20, -6)], carrot)
    pen.box(-13, 1, 13, 8, scarf)
    pen.box(5, 4, 12, 22, scarf)
    pen.box(-17, -24, 17, -19, hat)
    pen.box(-10, -38, 10, -22, hat)


def _boat(pen: Pen, body: Color, *, sail: Color, flag: Color) -> None:
    pen.line([(0, 16), (0, -36)], 3.5, body and WOOD)
    pen.polygon([(3, -28), (3, 10), (32, 10)], sail)
    pen.polygon([(-1, -39), (-24, -32), (-1, -24)], flag)
    pen.polygon([(-36, 14), (36, 14), (24, 34), (-24, 34)], body)


def _cat(pen: Pen, body: Color, *, ears: Color, tail: Color, bow: Color) -> None:
    swing = 7 * math.sin(1.2 * math.tau * pen.moment)
    pen.line([(10, 34), (28, 30), (33 + swing / 3, 14), (27 + swing, swing / 3)], 7, tail)
    for side in (-1, 1):
        pen.polygon([(-4 + side * 16, -14), (-4 + side * 14, -38), (-4 + side * 1, -24)], ears)
    pen.ellipse(-2, 22, 18, 18, body)
    pen.disc(-4, -10, 16, body)
    for x in (-10, 2):
        pen.ellipse(x, -13, 2.5, 3.5, body and DARK)
    pen.polygon([(-7, -6), (-1, -6), (-4, -3)], body and DARK)
    pen.polygon([(-4, 8), (-18, 1), (-18, 15)], bow)
    pen.polygon([(-4, 8), (10, 1), (10, 15)], bow)
    pen.disc(-4, 8, 3.5, bow)


def _plane(pen: Pen, body: Color, *, wings: Color, propeller: Color, windows: Color) -> None:
    pen.polygon([(-2, -6), (10, -6), (-6, -32), (-16, -32)], wings)
    pen.ellipse(0, 0, 34, 11, body)
    pen.polygon([(-34, 2), (-22, -4), (-30, -22), (-38, -22)], body)
    for x in (0, 10, 20):
        pen.disc(x, -3, 3.2, windows)
    pen.polygon([(-6, 3), (12, 3), (-8, 32), (-20, 32)], wings)
    pen.ellipse(36, 0, 3.2, 17, propeller)
    pen.disc(35, 0, 4, propeller)


def _clock(pen: Pen, body: Color, *, hands: Color, bells: Color, legs: Color) -> None:
    for side in (-1, 1):
        pen.line([(side * 14, 26), (side * 23, 38)], 6, legs)
        pen.disc(side * 19, -27, 11, bells)
    pen.disc(0, 2, 29, body)
    pen.disc(0, 2, 22, body and CREAM)
    pen.line([(0, 2), (0, -14)], 4, hands)
    pen.line([(0, 2), (11, 9)], 4, hands)


def _cake(pen: Pen, body: Color, *, candles: Color, cherries: Color) -> None:
    pen.box(-38, 32, 38, 37, body and DARK)
    for x in (-20, 0, 20):
        pen.box(x - 3, -24, x + 3, 4, candles)
        flicker = 1 + 0.3 * math.sin(1.7 * math.tau * pen.moment) * math.cos(x)
        pen.ellipse(x, -30, 3.2, 5.5 * flicker, candles and (255, 170, 40))
    pen.box(-31, 2, 31, 32, body)
    pen.box(-31, 12, 31, 18, body and CREAM)
    for x in (-26, -10, 10, 26):
        pen.disc(x, 0, 5.5, cherries)


def _flower(pen: Pen, body: Color, *, petals: Color, leaves: Color, pot: Color) -> None:
    pen.line([(0, -14), (0, 36)], 4, body and (60, 120, 60))
    pen.polygon([(0, 16), (-26, 4), (-20, 18)], leaves)
    pen.polygon([(0, 16), (26, 4), (20, 18)], leaves)
    for step in range(6):
        angle = math.pi * step / 3
        pen.disc(15 * math.cos(angle), -16 + 15 * math.sin(angle), 8.5, petals)
    pen.disc(0, -16, 9, body)
    pen.polygon([(-18, 22), (18, 22), (13, 40), (-13, 40)], pot)


PAINTERS: dict[str, Callable[..., None]] = {
    "bike": _bike,
    "person": _person,
    "car": _car,
    "house": _house,
    "tree": _tree,
    "snowman": _snowman,
    "boat": _boat,
    "cat": _cat,
    "plane": _plane,
    "clock": _clock,
    "cake": _cake,
    "flower": _flower,
}


def _shade(color: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, value + rng.randint(-6, 6))) for value in color)
    return red, green, blue


def _background(scene: Scene, rng: random.Random) -> Image.Image:
    side = OVERSAMPLING * SIDE
    image = Image.new("RGB", (side, side), _shade(SKIES[scene.sky], rng))
    canvas = ImageDraw.Draw(image)

    if scene.sun:
        x, y, r = rng.choice((rng.uniform(0.1, 0.2), rng.uniform(0.8, 0.9))) * side, 0.13 * side, 0.085 * side
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=(255, 226, 96))
    if scene.clouds:
        x, y = rng.uniform(0.2, 0.8) * side + CLOUD_SPEED * scene.moment * side, rng.uniform(0.1, 0.2) * side
        for dx, radius in ((-0.09, 0.05), (0.0, 0.07), (0.09, 0.05)):
            cx, r = x + dx * side, radius * side
            canvas.ellipse((cx - r, y - r, cx + r, y + r), fill=(238, 242, 246))

    horizon = rng.uniform(0.62, 0.7) * side
    canvas.rectangle((0, horizon, side, side), fill=_shade(GROUNDS[scene.ground], rng))
    return image


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """Returns an RGB image of a scene, with side x side pixels. The same scene always gives the same image."""
    rng = random.Random(scene.jitter)
    image = _background(scene, rng)

    colors: dict[str, Color] = dict.fromkeys(OBJECTS[scene.object])
    for part in scene.parts:
        colors[part.name] = _shade(COLORS[part.color], rng)
    body = None if scene.color is None else _shade(COLORS[scene.color], rng)

    PAINTERS[scene.object](Pen(image, scene), body, **colors)
    return image.resize((side, side), Image.Resampling.BOX)


def part_map(scene: Scene) -> np.ndarray:
    """Returns the part that each pixel of a scene shows, at three times the size.

    Bytes with shape (3 `SIDE`, 3 `SIDE`): 0 is the background, 1 the body with its details, 2 and above are the object's parts
    in their order.
    """
    image = Image.new("RGB", (OVERSAMPLING * SIDE, OVERSAMPLING * SIDE))
    colors: dict[str, Color] = dict.fromkeys(OBJECTS[scene.object])
    for number, part in enumerate(OBJECTS[scene.object], 2):
        if scene.has(part):
            colors[part] = (number, number, number)

    PAINTERS[scene.object](Pen(image, scene), None if scene.color is None else (1, 1, 1), **colors)
    numbers = np.asarray(image)[..., 0]
    return np.where(numbers > 1 + len(colors), 1, numbers)
