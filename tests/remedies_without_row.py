"""Remedies that have no row in `remedy_rows`, by the reason why not."""

from __future__ import annotations

WITHOUT_ROW = {
    "a detector family of another package": (
        "Leave out --agnostic and evaluate.agnostic.",
        "Set data.unlabelled.pseudo=hard.",
        "Write aid(..., granularity=image) if it has class and box losses of each image, else leave aid out.",
    ),
    "a teacher that says boxes alone: tests/unit/test_boxes_alone.py": ("Distil from it by --method boxes.",),
    "a function of the user's own: tests/integration/test_black_box.py": (
        "Choose a student by --student, without --self.",
    ),
    "a folder of transformers': tests/unit/test_hf_teachers.py": ("Write for example --student {}rtdetr_v2_small.",),
    "a pair that is made in Python: runs show a teacher in the data's classes": ("Name it by --classes-map.",),
    "words of Python alone: tests/integration/test_callbacks.py": (
        "Start the script by torchrun, or set train.processes=1.",
    ),
    "a proof that is not finite": (
        "Check the teacher's weights and the image normalisation with `detdistill evaluate TEACHER --data DATA`.",
    ),
    "a run that is resumed as another: tests/unit/test_checkpoints.py": (
        "Give --teacher and --classes-map as in the run's config.yaml",
        "Give --teacher and its settings as in the run's config.yaml",
        "Give --teacher as in the run's config.yaml, with the same weights",
        "Give --teacher, --then, teacher.shares and teacher.choose as in the run's config.yaml",
    ),
    "such data is refused before": ("Check the annotations with `detdistill data check DATA`.",),
    "memory that is too small: tests/integration/test_decoded_runs.py": (
        "Set data.cache=none, or data.cache=disk and a folder data.cache_folder.",
        "Set data.cache=none.",
    ),
    "a file that finds less than PyTorch: tests/integration/test_export.py": (
        "Add --allow-worse to have it all the same.",
    ),
    "a hub that cannot be reached: tests/unit/test_push.py": ("Unset it, or add --to-folder FOLDER.",),
    "an exported file of another student: tests/unit/test_push.py": (
        "Leave --onnx out.",
        "Write detdistill export {} --out {} first.",
    ),
    "a detector whose graph is of one size: tests/unit/test_hf.py": ("Add --size {} {}.",),
    "a runtime that stumbles: tests/unit/test_exported_files.py": ("Leave --int8 out.",),
    "a shell that does not tell its name: tests/unit/test_packaging.py": ("Write --install-completion --shell bash.",),
    "what the page of a run tells": (
        "Train it with detdistill train, and pass its folder as --alone.",
        "Whether the student alone would get as far in the time that the distillation took was not judged; "
        "--equal-time measures it.",
    ),
    "a lowering that takes minutes: tests/integration/test_export.py": ("Leave --nms out.", "Write --to onnx."),
    "advice in a table": ("To see it beside: {}; then {} --resume.",),
    "advice of a diagnosis: tests/integration/test_diagnosed.py": (
        "Train it as this run, {}, and compare with that by --alone runs/alone.",
    ),
    "what the doctor advises: tests/integration/test_doctor.py": (
        "Copy {} anew from where it was trained, or give an earlier checkpoint as --teacher.",
        "Give more by data.val=FOLDER.",
        "Give others by data.val=FOLDER.",
        "Leave it out for 3, or give {} to {}, such as --strength 3.",
        "Let it end half-way by until=0.5 in the method, or find a method by `detdistill tune`.",
        "Look at the labels by `detdistill data check DATA`.",
        "Set teacher.image=own to show it its own size.",
        "Set train.precision=32-true.",
        "Name them one by one, as --teachers runs/small --teachers runs/large.",
    ),
    "a checkpoint that says no size": (
        "Write teacher.image.short_side=480 teacher.image.long_side=640, or whatever it was.",
    ),
    "the row of `reproduce` has its end": ("Put {} there, or try --scale smoke first.",),
    "then it trains": ("Leave --data out to use drawn scenes.",),
    "the folder of another full-scale run": ("Give another --out, or delete it.",),
    "a full disk": ("Free some, give --out on another disk, or run rows one by one with --row.",),
    "torchrun": (
        "Train the runs with torchrun, and compare them by --runs and --against.",
        "Start torchrun with one --nproc-per-node on all machines, and leave train.processes out.",
        "Write train.device=cuda.",
        "Pass --alone RUN.",
        "Another one failed or was stopped: see what it said, and start all of them again with --resume.",
    ),
    "a machine with GPUs": (
        "Write train.device=cuda:{}.",
        "Set train.device=cpu, where any number can run.",
    ),
    "the command line refuses the folder before": ("Go on with it (--resume), or choose another folder.",),
    "a word that the command line does not let be empty": ("Leave it out, or write for example --methods frs.",),
    "a method of one's own": ("Give heads=...",),
    "a name that says otherwise: tests/unit/test_damaged_inputs.py": ("Write student={} instead.",),
    "towers that are equal: tests/unit/test_crosskd.py": (
        "Leave it out, or set reading=pyramid to read before the first.",
    ),
    "a search that was begun: tests/integration/test_tune.py": (
        "Choose another --out, or go on with that search by --resume.",
        "Give those, or choose another --out.",
    ),
    "a process that is killed": ("Go on with --resume and fewer --jobs.",),
    "memory that is not there: tests/integration/test_failures.py": ("Set train.accumulate={} in a new run",),
    "a run whose folder is gone while it works: tests/integration/test_nothing_mixed.py": (
        "Go on from there by --resume --out {}.",
        "Put it back and go on with it by --resume, or start a new run in another folder.",
    ),
}
"""Remedies that cannot be followed here, by the reason."""
