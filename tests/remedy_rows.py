"""The table of remedies: what is typed, what is said to it, what is typed then, and what is said to that.

A new error message whose remedy can be typed (an option, a key, a command) gets a row; `test_remedies.py` finds those
that have none.
"""

from __future__ import annotations

from remedy_rows_of_boxes import FOUND
from remedy_rows_of_data import KEPT
from remedy_rows_of_export import EXPORTED
from remedy_rows_of_own import OWN
from remedy_rows_of_teachers import OTHERS, TEACHERS
from remedy_words import Row, distill, evaluate, train

PLAIN = "train --detector fcos/tiny --out {home}/run"
RENAME = "Rename a file, or name it: data.train=TRAIN.json data.val=VAL.json in a run, --data FILE.json elsewhere."
NO_CLASSES = "Write frs(class_gain=0) to imitate features only."
BESIDE = ("--unlabelled", "{home}/more/images")
SMALL = ("data.image.short_side=32", "data.image.long_side=32")
GPU_OR_PROCESSES = (
    "Write train.device=cuda:1 for the GPU of that number, or train.processes=1 for so many processes that train "
    "together."
)

_SETTINGS = (
    Row(
        "evaluate fcos/tiny --data {home}/scenes",
        "Train it first, by detdistill train --detector fcos/tiny, and give the run's folder.",
        train(),
    ),
    Row(
        "report {home}/scenes",
        "Give the folder that was passed as --out.",
        "report {home}/begun --images 0 --out {home}/run/page.html",
    ),
    Row(
        "report {home}/begun --images 0 --out {home}/run/page.pdf",
        "Write --out {home}/run/page.html.",
        "report {home}/begun --images 0 --out {home}/run/page.html",
    ),
    Row(
        distill(*SMALL, student="hf:rtdetr_v2_tiny", method="hint"),
        "Set student.config.num_queries=21.",
        distill(*SMALL, "student.config.num_queries=21", student="hf:rtdetr_v2_tiny", method="hint"),
    ),
    Row(distill(method="queries"), "Distil by --method boxes, which needs none.", distill(method="boxes")),
    Row(
        distill("student.strides=[8,16]", teacher="coarse"),
        "Build the student with the teacher's strides, for example student.strides=[32,64].",
        distill("student.strides=[32,64]", teacher="coarse"),
    ),
    Row(
        train("student.strides=[64]"),
        "Take another backbone, or set student.strides=[32,64].",
        train("student.strides=[32,64]"),
    ),
    Row(
        train("student.strides=[8,32]"),
        "student.strides must be powers of two, each twice the one before, got (8, 32). Write for example [8,16,32].",
        train("student.strides=[8,16,32]"),
    ),
    Row(
        train("student.detector=faster_rcnn/test_vit", "student.strides=[16,32,64]"),
        "Set student.strides=[16,32].",
        train("student.detector=faster_rcnn/test_vit", "student.strides=[16,32]", "data.image.short_side=160"),
        then="data.image.long_side",
    ),
    Row(
        train("data.augment.scale_jitter=[2,1]"),
        "Give for example [0.8,1.25].",
        train("data.augment.scale_jitter=[0.8,1.25]"),
    ),
    Row(
        train("data.augment.short_sides=[2,1]"),
        "Give for example [480,800].",
        train("data.augment.short_sides=[480,800]"),
    ),
    Row(
        train("data.classes=[car,car]"),
        "Write for example data.classes=[car,truck], or null for all.",
        train("data.classes=[car,truck]"),
    ),
    Row(train("data.weights=[1]"), "Write for example data.weights=null.", train("data.weights=null")),
    Row(
        train("--data", "{home}/more", "data.weights=[1]"),
        "Write for example data.weights=[1,1].",
        train("--data", "{home}/more", "data.weights=[1,1]"),
    ),
    Row(
        train("seed=1", "train.lr"),
        "Write it like train.lr=0.01, or name a file that ends in .yaml.",
        train("seed=1", "train.lr=0.01"),
    ),
    Row(train("train.devices=1"), GPU_OR_PROCESSES, train("train.processes=1")),
    Row(
        train("train.devices=1"),
        GPU_OR_PROCESSES,
        train("train.device=cuda:1"),
        then="Write train.device=auto.",
        needs_cpu=True,
    ),
    Row(train("train.accelerator=cpu"), "Write train.device=cpu.", train("train.device=cpu")),
    Row(
        train('train.device="1"'),
        "Write train.device=cuda:1 for the GPU of that number.",
        train("train.device=cuda:1"),
        then="Write train.device=auto.",
        needs_cpu=True,
    ),
    Row(train("train.device=cuda"), "Write train.device=auto.", train("train.device=auto"), needs_cpu=True),
    Row(
        train("train.processes=2", "train.device=cuda:0"),
        "Write train.processes=1.",
        train("train.processes=1", "train.device=cuda:0"),
        then="Write train.device=auto.",
        needs_cpu=True,
    ),
    Row(
        train(*SMALL, "student.fpn_norm=batch", "train.batch_size=1"),
        "Set train.batch_size=2.",
        train(*SMALL, "student.fpn_norm=batch", "train.batch_size=2"),
    ),
    Row(
        train(*SMALL, "student.fpn_norm=batch", "train.batch_size=4", "train.accumulate=4"),
        "Set train.accumulate=2.",
        train(*SMALL, "student.fpn_norm=batch", "train.batch_size=4", "train.accumulate=2"),
    ),
    Row(
        distill("data.unlabelled.share=0.5"),
        "Pass --unlabelled FOLDER, or leave data.unlabelled out.",
        distill("data.unlabelled.share=0.5", *BESIDE),
    ),
    Row(
        distill(*BESIDE, "data.unlabelled.doubtful=1"),
        "Set data.unlabelled.doubtful=0.9.",
        distill(*BESIDE, "data.unlabelled.doubtful=0.9"),
    ),
    Row(
        distill(*BESIDE, "data.unlabelled.pseudo=hard", OTHERS, teacher="others", method="hint"),
        "Set data.unlabelled.pseudo=none.",
        distill(*BESIDE, "data.unlabelled.pseudo=none", OTHERS, teacher="others", method="hint"),
    ),
    Row(
        distill(*BESIDE, "train.batch_size=4", "train.accumulate=2", "data.unlabelled.share=0.75"),
        "Set train.accumulate=1.",
        distill(*BESIDE, "train.batch_size=4", "train.accumulate=1", "data.unlabelled.share=0.75"),
    ),
    Row(
        distill(*SMALL, *BESIDE, "student.fpn_norm=batch", "data.unlabelled.share=0.1"),
        "Set data.unlabelled.share=1.",
        distill(*SMALL, *BESIDE, "student.fpn_norm=batch", "data.unlabelled.share=1"),
    ),
    Row(
        distill("teacher.std=[0,1,1]"),
        "Set teacher.std=null for what the teacher came with.",
        distill("teacher.std=null"),
    ),
    Row("settings zzzzqq", "Look through all of them with detdistill settings.", "settings"),
)

SEARCH = "tune --student fcos/tiny --teacher {home}/teacher --data {home}/scenes --out {home}/run"

PAIR = "prove --runs {home}/teacher --out {home}/run"

_STUDIES = (
    Row(
        f"{PAIR} --data {{home}}/scenes",
        "Write for example --runs distilled_0 distilled_1 --against alone_0 alone_1.",
        f"{PAIR} --data {{home}}/scenes --against {{home}}/coarse",
    ),
    Row(
        f"{PAIR} --against {{home}}/coarse",
        "Pass --data FOLDER.",
        f"{PAIR} --against {{home}}/coarse --data {{home}}/scenes",
    ),
    Row(
        "prove --runs {home}/teacher --against {home}/coarse --data {home}/scenes",
        "Pass --out FOLDER.",
        f"{PAIR} --against {{home}}/coarse --data {{home}}/scenes",
    ),
)

_METHODS = (
    Row(
        f"{SEARCH} --strengths 0",
        "Leave it out, or write for example --strengths 1 --strengths 3; the student alone is tried in any case.",
        f"{SEARCH} --strengths 1 --strengths 3",
    ),
    Row(
        distill(method="attention(channel_gain=1, features=standardized)"),
        "Leave it out, or write features=raw.",
        distill(method="attention(channel_gain=1, features=raw)"),
    ),
    Row(distill(OTHERS, teacher="others"), NO_CLASSES, distill(OTHERS, teacher="others", method="frs(class_gain=0)")),
    Row(
        distill(OTHERS, teacher="others", method="aid(frs)"),
        NO_CLASSES,
        distill(OTHERS, teacher="others", method="aid(frs(class_gain=0))"),
        then="The teacher of aid must have the student's classes in the same order",
    ),
    Row(
        distill(OTHERS, teacher="others", method="aid(hint)"),
        "Take the method without aid.",
        distill(OTHERS, teacher="others", method="hint"),
    ),
    Row(
        distill(OTHERS, teacher="others", method="ikd(hint)"),
        "Write ikd(..., adversarial=false) to change the samples alone.",
        distill(OTHERS, teacher="others", method="ikd(hint, adversarial=false)"),
    ),
    Row(distill(method="ld"), "or imitate features, as with hint.", distill(method="hint")),
    Row(
        distill(OTHERS, teacher="gfl_others", student="gfl/tiny", method="ld(class_gain=1)"),
        "Write ld(class_gain=0) to imitate boxes only.",
        distill(OTHERS, teacher="gfl_others", student="gfl/tiny", method="ld(class_gain=0)"),
    ),
    Row(
        distill(teacher="gfl_bins", student="gfl/tiny", method="ld"),
        "Set student.box_bins=9.",
        distill("student.box_bins=9", teacher="gfl_bins", student="gfl/tiny", method="ld"),
    ),
    Row(
        distill(method="boxes(doubtful=0.5)"),
        "Set doubtful=0.3.",
        distill(method="boxes(doubtful=0.3)"),
    ),
    Row(
        distill(method="aid(frs, weigh_adversarial=true)"),
        "Wrap the method in ikd inside aid, as in aid(ikd(frs), weigh_adversarial=true), or leave it out.",
        distill(method="aid(ikd(frs), weigh_adversarial=true)"),
    ),
    Row(
        distill(method="frs(feature_gain=0, class_gain=0)"),
        "Raise one of them, or train the student alone with detdistill train.",
        train(),
    ),
    Row(
        distill(method="aid"),
        "Write the method that is wrapped, as in --method 'aid(frs)', or in the config file.",
        distill(method="aid(frs)"),
    ),
    Row(
        distill(method="sum"),
        "Write the methods, as in --method 'frs + ssim', or in the config file.",
        distill(method="frs + ssim"),
    ),
    Row(
        distill(method="'frs'"),
        "Write for example frs, or aid(frs + ssim, alpha=0.5).",
        distill(method="aid(frs + ssim, alpha=0.5)"),
    ),
    Row(
        distill("data.sample_specific={{}}", method="ikd(hint)"),
        "Set the method's own numbers, such as method.small_px=32.",
        distill("method.small_px=32", method="ikd(hint)"),
    ),
    Row("methods 'frs + ssim'", "Ask for each method by itself, as in detdistill methods frs.", "methods frs"),
)

_DETECTORS = (
    Row(
        distill("--inherit", OTHERS, teacher="renamed", method="hint"),
        "Leave out --inherit.",
        distill(OTHERS, teacher="renamed", method="hint"),
    ),
    Row(
        distill("--inherit", teacher="gfl_wide", method="hint"),
        "Take a student of the same family with student.fpn_channels=64, or leave out --inherit.",
        distill("--inherit", "student.fpn_channels=64", teacher="gfl_wide", method="hint", student="gfl/tiny"),
    ),
    Row(
        train("--init", "{home}/teacher", "student.detector=fcos/test_efficientnet"),
        "Give the student the same architecture, or leave out --init.",
        "train --data {home}/scenes --out {home}/run --init {home}/teacher",
    ),
    Row(
        distill("--inherit", "--init", "{home}/teacher"),
        "Leave out --inherit, or --init.",
        distill("--init", "{home}/teacher"),
    ),
    Row(
        distill("--alone", "{home}/teacher"),
        "Train it with the same settings, or pass --alone-differs to have that said beside the figures.",
        distill("--alone", "{home}/teacher", "--alone-differs"),
    ),
    Row(
        distill("--alone-differs"),
        "Pass --alone RUN as well.",
        distill("--alone-differs", "--alone", "{home}/teacher"),
    ),
    Row(
        distill("--generations", "2"),
        "Add --self.",
        distill("--generations", "2", "--self"),
        then="Leave out --student and the section student, or --self.",
    ),
    Row(
        distill("--self"),
        "Leave out --student and the section student, or --self.",
        distill("--self", student=None),
    ),
    Row(
        distill("--self", student=None, teacher="torchvision:fcos_resnet50_fpn"),
        "Give --teacher RUN, or choose a student by --student.",
        distill("--self", student=None),
    ),
    Row(
        distill("--self", "--generations", "0", student=None),
        "Give --generations 2.",
        distill("--self", "--generations", "2", student=None),
    ),
    Row(
        distill("--self", "--generations", "2", "--longer", "2", student=None),
        "Leave out --equal-time and --longer.",
        distill("--self", "--generations", "2", student=None),
    ),
)

_DATA = (
    Row(
        train("data.folder={home}/unnamed"),
        RENAME,
        PLAIN + " data.train={home}/unnamed/one.json data.val={home}/unnamed/seen.json",
    ),
    Row(
        evaluate("--json", "{home}/scenes"),
        "Write --json {home}/scenes/figures.json.",
        evaluate("--json", "{home}/scenes/figures.json"),
    ),
    Row(evaluate(data="unnamed"), RENAME, evaluate(data="unnamed/seen.json")),
    Row(
        evaluate("--split", "test", data="voc"), "Add it, or give --split val.", evaluate("--split", "val", data="voc")
    ),
    Row(
        evaluate("--protocol", "kitti", "--confusion", "{home}/confusion.png"),
        "Add --protocol coco.",
        evaluate("--protocol", "coco", "--confusion", "{home}/confusion.png"),
    ),
    Row(
        evaluate(data="resized"),
        "Run `detdistill data check DATA` to list all such images.",
        "data check {home}/resized",
    ),
    Row(
        train("data.folder={home}/bare"),
        "See what became of them by `detdistill data check DATA`.",
        "data check {home}/bare",
    ),
    Row(
        train("data.folder={home}/lossy"),
        "Mend them, or go on with what is left by --allow-problems.",
        train("data.folder={home}/lossy", "--allow-problems"),
    ),
    Row(
        PLAIN,
        "Pass --data FOLDER, or write it in the config file.",
        PLAIN + " --data {home}/scenes",
    ),
    Row(
        "train --detector fcos/tiny --data {home}/scenes",
        "Pass --out FOLDER, or write it in the config file.",
        "train --detector fcos/tiny --data {home}/scenes --out {home}/run",
    ),
    Row(
        PLAIN + " data.train={home}/scenes/train.json",
        "Pass --data FOLDER, or give data.train and data.val.",
        PLAIN + " data.train={home}/scenes/train.json data.val={home}/scenes/val.json",
    ),
    Row(train("out={home}/scenes/val.json"), "Choose another --out.", train()),
    Row(train("out={home}/scenes"), "Choose another --out.", train()),
    Row(train("out={home}/scenes", "--resume"), "Choose another --out.", train("--resume")),
    Row(
        train("out={home}/begun"),
        "Choose another --out, or go on with that run by --resume.",
        train("out={home}/begun", "--resume"),
    ),
    Row(
        "reproduce aid --plan",
        "Add --scale full.",
        "reproduce aid --plan --scale full",
        then="Pass --data ROOT with kitti/ and coco/ in it, or try --scale smoke first.",
    ),
    Row(
        "reproduce aid --plan --scale full",
        "Pass --data ROOT with kitti/ and coco/ in it, or try --scale smoke first.",
        "reproduce aid --plan --scale full --data {home}/scenes",
        then="or try --scale smoke first.",
    ),
    Row(
        "reproduce aid --plan --scale full --data {home}/scenes",
        "or try --scale smoke first.",
        "reproduce aid --plan --scale smoke",
        then="Add --scale full.",
    ),
)

ROWS = (*_SETTINGS, *_STUDIES, *_METHODS, *_DETECTORS, *_DATA, *FOUND, *TEACHERS, *OWN, *EXPORTED, *KEPT)
