"""Boxes written in a text and read back, for tests of formats and of what is trained."""

from lab.answers.box_formats import FORMATS
from lab.answers.regions import read, write


def check_round_trip(name, size, resized, regions):
    """Within one bin, or one pixel of the picture that the numbers are pixels of."""
    one = FORMATS[name]
    text = write(regions, name, size=size, resized=resized)
    reading = read(text, name, size=size, resized=resized)
    assert reading.status == ("ok" if regions else "empty")
    grid = resized if one.resized else size if one.grid is None else (one.grid, one.grid)
    again = reading.points if one.points else reading.regions
    assert [region.label for region in again] == [region.label for region in regions]
    for before, after in zip(regions, again, strict=True):
        if one.points:
            before = before._replace(x0=(before.x0 + before.x1) / 2, y0=(before.y0 + before.y1) / 2)._replace(x1=after.x1, y1=after.y1)
        for axis, (low, high) in enumerate((("x0", "x1"), ("y0", "y1"))):
            bin_ = size[axis] / grid[axis]
            (a, b), (c, d) = ((getattr(region, low), getattr(region, high)) for region in (before, after))
            at_the_end = one.most is not None and b > size[axis] - bin_ and a > size[axis] - 2 * bin_
            assert abs(a - c) <= bin_ * (1 + at_the_end) + 1e-6 and abs(b - d) <= bin_ + 1e-6
            assert one.points or (c < d) == (a < b)
        assert one.points or after.valid(size) == before.valid(size)
