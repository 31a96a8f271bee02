"""What to know of a training's images before its first step: classes, and what looks wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fbnetv3._internal.messages import counted, one_line, shown
from fbnetv3.images.classes import nearly_equal

from .image_set import ImageSet, Source, readable

# Fewer images than this are few for a class; a class this many times as large as another is listed.
_FEW, _UNEQUAL = 10, 10
_NUM_LISTED, _NUM_ROWS = 5, 30


def class_table(train: ImageSet, val: ImageSet) -> list[str]:
    """Returns a line for each class with its numbers of images; a summary of more than 30.

    Args:
        train: training set.
        val: validation set with the same classes.
    """
    names = [one_line(name) for name in train.classes]
    counts = list(zip(names, train.counts, val.counts, strict=True))
    if len(counts) > _NUM_ROWS:
        of_train, of_val = train.counts, val.counts
        return [
            f"{len(counts)} classes with {min(of_train)} to {max(of_train)} images to train on and "
            f"{min(of_val)} to {max(of_val)} to validate on"
        ]
    width = max(len(name) for name in names)
    return [f"{name:>{width}}  {num:6d} train  {num_val:6d} val" for name, num, num_val in counts]


def remarks(train: ImageSet, val: ImageSet) -> list[str]:
    """Returns what may spoil the training or its accuracy, a sentence each.

    Classes with few images or with very unequal numbers, or with nearly equal names, and
    validation images that are in the training set too.

    Args:
        train: training set.
        val: validation set with the same classes.
    """
    counts = sorted(zip(train.counts, train.classes, strict=True))
    found = []
    few = [f"{one_line(name)} {num}" for num, name in counts if num < _FEW]
    if few:
        listed = ", ".join(few[:_NUM_LISTED])
        classes = counted(len(few), "class", "classes")
        found.append(f"fewer than {_FEW} images to train on in {classes}: {listed}")
    (least, smallest), (most, largest) = counts[0], counts[-1]
    if most >= _UNEQUAL * max(1, least):
        found.append(
            f"class {largest!r} has {most} images and {smallest!r} has {least}; --balance sampler "
            "or --balance loss makes up for it"
        )
    for alike in nearly_equal(train.classes)[:_NUM_LISTED]:
        found.append(
            f"the names of classes {' and '.join(map(shown, alike))} are nearly equal; if they are "
            "one class, put its images together"
        )
    if train.multi_label and (unlabelled := int((~train.labels.any(1)).sum())):
        found.append(f"{unlabelled} images to train on have no label, which is learned as such")
    same = duplicates(train, val)
    if same:
        listed = ", ".join(
            f"{val.described(mine)} = {train.described(theirs)}"
            for mine, theirs in list(same.items())[:_NUM_LISTED]
        )
        found.append(
            f"{len(same)} of the {len(val)} validation images are in the training set too, so that "
            f"the accuracy will be too high: {listed}"
        )
    return found


def duplicates(train: ImageSet, val: ImageSet) -> dict[int, int]:
    """Returns the validation images that are in the training set too, with their positions there.

    Files are compared byte for byte, and only those of the same size are read; images in memory by
    their pixels.
    """
    if train.sources is None or val.sources is None:
        if train.pixels is None or val.pixels is None:
            return {}
        pixels = {_digest(image.numpy().tobytes()): n for n, image in enumerate(train.pixels)}
        found = {n: _digest(image.numpy().tobytes()) for n, image in enumerate(val.pixels)}
        return {n: pixels[digest] for n, digest in found.items() if digest in pixels}
    sizes = [_sizes(images) for images in (train.sources, val.sources)]
    both = set(sizes[0]) & set(sizes[1])
    known = {
        _digest_of(train.sources[n]): n
        for n, size in enumerate(sizes[0])
        if size in both and size >= 0
    }
    digests = {
        n: _digest_of(val.sources[n])
        for n, size in enumerate(sizes[1])
        if size in both and size >= 0
    }
    return {n: known[digest] for n, digest in digests.items() if digest in known}


def _sizes(sources: Sequence[Source]) -> list[int]:
    """Returns the sizes in bytes, -1 for a file that has gone meanwhile."""
    return [
        _size_of_file(source)
        if isinstance(source, Path)
        else len(source)
        if isinstance(source, bytes)
        else source.num_bytes
        for source in sources
    ]


def _size_of_file(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest_of(source: Source) -> bytes:
    content = readable(source)
    return _digest(content if isinstance(content, bytes) else content.read_bytes())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
