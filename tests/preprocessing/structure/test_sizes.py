"""The sizes and formats that our readers find are those that Pillow finds, in ordinary files and in mutants."""

from loadtests.sizes import compare, files


def test_of_files_that_both_accept_pillow_says_the_same() -> None:
    compared, different = compare(files(700, seed=20))
    assert not different
    assert min(compared[name] for name in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")) >= 10
