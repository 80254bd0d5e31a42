"""The same five small images with the same boxes, as folders in every format that is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 40, 30
TRAIN, VAL = ("a", "b", "c"), ("d", "e")
Object = tuple[str, float, float, float, float]
# Class and x1, y1, x2, y2; image c has none.
OBJECTS: Mapping[str, Sequence[Object]] = {
    "a": [("Car", 2, 3, 12, 13), ("Van", 20, 10, 40, 30)],
    "b": [("Van", 0, 0, 8, 6)],
    "c": [],
    "d": [("Car", 5, 5, 25, 20), ("Car", 30, 4, 38, 9)],
    "e": [("Van", 1, 2, 30, 28)],
}
UNKNOWN_3D = "-1 -1 -1 -1000 -1000 -1000 -10"


def picture(path: Path, *, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Writes an image in a colour of its name, so that no two names have one content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), zlib.crc32(path.stem.encode()) & 0xFFFFFF).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _lists(folder: Path) -> None:
    for split, stems in (("train", TRAIN), ("val", VAL)):
        write(folder / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))


def coco_text(stems: Sequence[str]) -> str:
    images = [
        {"id": own, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT} for own, stem in enumerate(stems)
    ]
    boxes = [
        {"image_id": own, "category_id": 1 + (name == "Van"), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for own, stem in enumerate(stems)
        for name, x1, y1, x2, y2 in OBJECTS[stem]
    ]
    rows = [{"id": own, "area": 9, **box} for own, box in enumerate(boxes)]
    categories = [{"id": 1, "name": "Car"}, {"id": 2, "name": "Van"}]
    return json.dumps({"images": images, "annotations": rows, "categories": categories}, indent=1)


def make_coco(folder: Path) -> Path:
    for split, stems in (("train", TRAIN), ("val", VAL)):
        write(folder / f"{split}.json", coco_text(stems))
        for stem in stems:
            picture(folder / "images" / f"{stem}.png")
    return folder


def make_roboflow(folder: Path) -> Path:
    for split, stems in (("train", TRAIN), ("valid", VAL)):
        write(folder / split / "_annotations.coco.json", coco_text(stems))
        for stem in stems:
            picture(folder / split / f"{stem}.png")
    return folder


def make_one_coco(folder: Path) -> Path:
    """As CVAT exports it: one file for both splits."""
    write(folder / "annotations" / "instances_default.json", coco_text((*TRAIN, *VAL)))
    for stem in (*TRAIN, *VAL):
        picture(folder / "images" / "default" / f"{stem}.png")
    return folder


def voc_object(name: str, corners: Sequence[object], *, difficult: object = 0) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object>\n<name>{name}</name>\n<difficult>{difficult}</difficult>\n<bndbox>{box}</bndbox>\n</object>\n"


def voc_xml(objects: str, *, name: str = "a.png", size: tuple[object, object] = (WIDTH, HEIGHT)) -> str:
    written = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}</filename>\n{written}\n{objects}</annotation>\n"


def make_voc(folder: Path) -> Path:
    for stem in (*TRAIN, *VAL):
        objects = "".join(voc_object(name, (x1 + 1, y1 + 1, x2, y2)) for name, x1, y1, x2, y2 in OBJECTS[stem])
        write(folder / "Annotations" / f"{stem}.xml", voc_xml(objects, name=f"{stem}.png"))
        picture(folder / "JPEGImages" / f"{stem}.png")
    _lists(folder / "ImageSets" / "Main")
    return folder


def yolo_text(stem: str) -> str:
    lines = []
    for name, x1, y1, x2, y2 in OBJECTS[stem]:
        shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        lines.append(f"{int(name == 'Van')} {' '.join(map(str, shares))}\n")
    return "".join(lines)


def make_yolo(folder: Path) -> Path:
    write(folder / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: [Car, Van]\n")
    for split, stems in (("train", TRAIN), ("val", VAL)):
        for stem in stems:
            write(folder / "labels" / split / f"{stem}.txt", yolo_text(stem))
            picture(folder / "images" / split / f"{stem}.png")
    return folder


def make_darknet(folder: Path, *, valid: bool = True) -> Path:
    """As CVAT exports it; without `valid` one list names all."""
    listed = "valid = data/valid.txt\n" if valid else ""
    write(
        folder / "obj.data", f"classes = 2\ntrain = data/train.txt\n{listed}names = data/obj.names\nbackup = backup/\n"
    )
    write(folder / "obj.names", "Car\nVan\n")
    names = {stem: f"data/obj_train_data/{stem}.png\n" for stem in (*TRAIN, *VAL)}
    for stem in names:
        write(folder / "obj_train_data" / f"{stem}.txt", yolo_text(stem))
        picture(folder / "obj_train_data" / f"{stem}.png")
    write(folder / "train.txt", "".join(names[stem] for stem in (TRAIN if valid else names)))
    if valid:
        write(folder / "valid.txt", "".join(names[stem] for stem in VAL))
    return folder


def make_labelimg(folder: Path) -> Path:
    write(folder / "classes.txt", "Car\nVan\n")
    for stem in (*TRAIN, *VAL):
        write(folder / f"{stem}.txt", yolo_text(stem))
        picture(folder / f"{stem}.png")
    return folder


def kitti_line(kind: str, box: Sequence[object], *, truncated: object = 0, occluded: object = 0) -> str:
    return f"{kind} {truncated} {occluded} -10 {' '.join(map(str, box))} {UNKNOWN_3D}\n"


def make_kitti(folder: Path) -> Path:
    for stem in (*TRAIN, *VAL):
        lines = [kitti_line(name, box) for name, *box in OBJECTS[stem]]
        write(folder / "training" / "label_2" / f"{stem}.txt", "".join(lines))
        picture(folder / "training" / "image_2" / f"{stem}.png")
    _lists(folder / "ImageSets")
    return folder


def make_tracking(folder: Path) -> Path:
    """KITTI's tracking layout: the images of train and val as two sequences."""
    for sequence, stems in (("0000", TRAIN), ("0001", VAL)):
        lines = []
        for frame, stem in enumerate(stems):
            picture(folder / "training" / "image_02" / sequence / f"{frame:06}.png")
            lines += [f"{frame} {track} {kitti_line(name, box)}" for track, (name, *box) in enumerate(OBJECTS[stem])]
        write(folder / "training" / "label_02" / f"{sequence}.txt", "".join(lines))
    return folder


def labelme_text(stem: str) -> str:
    shapes = [
        {"label": name, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "flags": {}}
        for name, x1, y1, x2, y2 in OBJECTS[stem]
    ]
    content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": f"{stem}.png", "imageData": None}
    return json.dumps({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH}, indent=1)


def make_labelme(folder: Path) -> Path:
    for stem in (*TRAIN, *VAL):
        write(folder / f"{stem}.json", labelme_text(stem))
        picture(folder / f"{stem}.png")
    return folder


MAKERS = {
    "coco": make_coco,
    "voc": make_voc,
    "yolo": make_yolo,
    "kitti": make_kitti,
    "roboflow": make_roboflow,
    "cvat": make_one_coco,
    "darknet": make_darknet,
    "labelimg": make_labelimg,
    "labelme": make_labelme,
    "tracking": make_tracking,
}
"""Every layout that is read, made into a folder."""
