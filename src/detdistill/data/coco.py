"""Reads COCO-JSON annotations into flat arrays, in one streamed pass.

The file may be larger than memory: entries are read one at a time and kept as numbers; polygons are passed over.
The lists ``images``, ``annotations`` and ``categories`` may come in any order. Labels 0..K-1 follow the order of
the file's ``categories``, whatever their ids and the gaps between them; images keep the file's order too.

Fine, and never reported: category ids with gaps, images without boxes, file names with sub-folders, crowd boxes
(``iscrowd`` 1: kept, marked ignored), missing annotation ids, ``iscrowd`` missing (0), overhang below half a pixel.

============================================  ==========================================================
problem                                       what is done
============================================  ==========================================================
not JSON, empty, a list missing, no category  refused: `DataError`
other class names than demanded               refused: `DataError` with both lists
bad entry (no object, id no whole number)     entry skipped
category id twice                             second skipped
category name twice                           repaired: both ids mean the first class
image id or annotation id twice               second skipped
file name absolute or leading out (``..``)    image skipped, and its boxes
width or height missing                       repaired from the image's header; no header: image skipped
annotation of an unknown image or category    box skipped
bbox missing, not four finite numbers         box skipped
width or height of a box 0 or below           box skipped
box wholly outside its image                  box skipped
box partly outside                            repaired: clipped
area missing, 0 or below, not finite          repaired: width times height of the clipped box
with `check_images`: file missing, unreadable
or of another size than the annotations say   image skipped, and its boxes
============================================  ==========================================================

``ignore_regions`` of an image (lists of x, y, width, height: KITTI's DontCare) are neither hit nor miss for any
class. COCO's evaluation ignores per class, so each region becomes one ignored box for every class. With more than
`MOST_CLASSES_FOR_REGIONS` classes they would outnumber the objects: they are skipped, and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from detdistill.data.annotations import Annotations
from detdistill.data.coco_arrays import assemble
from detdistill.data.coco_columns import Columns
from detdistill.data.image_files import header_size, image_flaw, images_folder, unsafe_name
from detdistill.data.json_stream import BEGIN, walk
from detdistill.data.problems import Problems
from detdistill.errors import DataError

LISTS = ("images", "annotations", "categories")


def first_file_names(json_path: Path, *, count: int = 20) -> list[str]:
    """The first few usable file names of a COCO file; reads no further than needed."""
    names: list[str] = []
    for _, entry in walk(json_path, ("images",)):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and unsafe_name(name) is None:
            names.append(name)
            if len(names) == count:
                break
    return names


def _read_columns(json_path: Path, problems: Problems) -> Columns:
    columns = Columns(str(json_path), problems)
    add = {"images": columns.add_image, "annotations": columns.add_annotation, "categories": columns.add_category}
    seen: list[str] = []
    for key, entry in walk(json_path, LISTS):
        if entry is BEGIN:
            seen.append(key)
        else:
            add[key](entry)
    missing = [key for key in LISTS if key not in seen]
    if missing:
        raise DataError(
            f"{json_path} must be a COCO file with the lists {', '.join(LISTS)}, "
            f"got no {' and no '.join(missing)} (its keys: {', '.join(seen[:12]) or 'none'}). "
            f"Give an annotation file of COCO's object detection format."
        )
    if not columns.class_names:
        raise DataError(
            f'"categories" of {json_path} must name at least one class, got none that can be read. '
            f"Add entries with id and name."
        )
    return columns


def label_order(source: Path, own: Sequence[str], demanded: Sequence[str] | None) -> list[int]:
    """For every label, which of the source's classes it is.

    Raises:
        DataError: the source has other classes than those demanded.
    """
    if demanded is None or tuple(demanded) == tuple(own):
        return list(range(len(own)))
    if sorted(demanded) != sorted(own):
        missing = [name for name in demanded if name not in own]
        unknown = [name for name in own if name not in demanded]
        difference = [f"{word} {names}" for word, names in (("missing", missing), ("unknown", unknown)) if names]
        raise DataError(
            f"the classes of {source} must be {list(demanded)}, got {list(own)} ({'; '.join(difference)}). "
            f"Make the names of its classes the same, or use the data that these classes come from."
        )
    return [list(own).index(name) for name in demanded]


def _settle_images(
    columns: Columns,
    folder: Path,
    *,
    check_images: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fills in missing sizes from the files, and skips what cannot be used."""
    for row in range(columns.image_count):
        height, width = columns.size(row)
        path = folder / columns.file_name(row)
        if columns.keeps_image(row) and height == 0:
            size = header_size(path)
            if size is None:
                columns.skip_image(row, "image without size", f"no width and height, and {path} cannot be read")
            else:
                height, width = size
                columns.repair_size(row, size)
        if check_images and columns.keeps_image(row):
            flaw = image_flaw(path, height=height, width=width)
            if flaw is not None:
                columns.skip_image(row, *flaw)
        if progress is not None:
            progress(row + 1, columns.image_count)


def read_coco(
    json_path: Path,
    *,
    images_dir: Path | None = None,
    check_images: bool = False,
    class_names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Annotations, Problems]:
    """Reads the annotations of one COCO JSON file.

    Args:
        json_path: the file.
        images_dir: folder that its file names are relative to; None looks where the first images are.
        check_images: decode every image fully and compare its size; slow. Without it no image is opened, except
            for the header of one whose size the file does not give.
        class_names: demand these classes; labels then follow this order, matched by name.
        progress: called with (images settled, all images) where images are looked at.

    Returns:
        The arrays, possibly of no image, and everything that was repaired or skipped.

    Raises:
        ConfigError: the file cannot be read.
        DataError: it is no COCO file, or its classes are not those demanded.
    """
    problems = Problems()
    columns = _read_columns(json_path, problems)
    order = label_order(json_path, columns.class_names, class_names)
    if images_dir is None:
        images_dir, _ = images_folder(json_path, columns.first_names(20))
    if check_images or columns.lacks_sizes:
        _settle_images(columns, images_dir, check_images=check_images, progress=progress)
    return assemble(columns, order, images_dir=images_dir), problems
