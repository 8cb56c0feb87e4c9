"""The mutants of `make fuzz`: the same for a seed, of every format, and answered with a picture or a refusal."""

import contextlib
from itertools import islice

import numpy as np

from errors import InvalidImage, TooLarge
from loadtests.fuzz.files import seeds
from loadtests.fuzz.mutants import MOST_BYTES, mutants
from preprocessing.decode import decode
from preprocessing.prepare import is_slow
from preprocessing.spec import ImageLimits
from preprocessing.structure.read import read_structure
from tests.preprocessing.test_decode import smooth

FILES = seeds(smooth(48, 64))


def test_every_seed_is_an_ordinary_file_before_it_is_mutated() -> None:
    for seed in FILES:
        data = seed.join(seed.parts)
        if read_structure(data).pictures == 1:  # type: ignore[union-attr]
            assert sorted(decode(data, ImageLimits()).shape) == [3, 48, 64]


def test_a_seed_makes_the_same_mutants_of_every_format_again() -> None:
    first, again, other = (list(islice(mutants(FILES, 200, seed), 200)) for seed in (1, 1, 2))
    assert first == again != other
    assert {name for name, _ in first} == {"JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"}
    assert max(len(data) for _, data in first) <= MOST_BYTES


def test_every_mutant_gives_a_picture_or_a_refusal_and_nothing_else() -> None:
    limits = ImageLimits(max_pixels=1_000_000)
    for _, data in mutants(FILES, 1_000, 7):
        if not is_slow(data, limits):
            with contextlib.suppress(InvalidImage, TooLarge):
                image = decode(data, limits)
                assert image.dtype == np.uint8 and image.ndim == 3
