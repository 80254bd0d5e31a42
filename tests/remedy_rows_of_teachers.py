"""Rows of the table of remedies about teachers of other classes, and about several."""

from __future__ import annotations

from remedy_words import Row, distill

OTHERS = "teacher.allow=[classes]"

TEACHERS = (
    Row(
        distill(teacher="others"),
        'Say which is which, as by --classes-map "cat=car", or set teacher.allow=[classes] for a method on features.',
        distill("--classes-map", "cat=car", teacher="others"),
    ),
    Row(
        distill(teacher="others"),
        'Say which is which, as by --classes-map "cat=car", or set teacher.allow=[classes] for a method on features.',
        distill(OTHERS, teacher="others", method="hint"),
    ),
    Row(
        distill("--then", "{home}/gfl_wide", "teacher.shares=[1]", method="hint"),
        "Write for example teacher.shares=[1,1].",
        distill("--then", "{home}/gfl_wide", "teacher.shares=[1,1]", method="hint"),
    ),
    Row(
        distill("teacher.shares=[1]", method="hint"),
        "Name who follows by --then, or leave it out.",
        distill("--then", "{home}/gfl_wide", "teacher.shares=[1,1]", method="hint"),
    ),
    Row(
        distill("--then", "{home}/gfl_wide", "teacher.shares=[1,9999]", method="hint"),
        "Leave teacher.shares out.",
        distill("--then", "{home}/gfl_wide", method="hint"),
    ),
    Row(
        distill("--then", "{home}/gfl_wide", "--steps", "1", method="hint"),
        "Pass --steps 2 or more.",
        distill("--then", "{home}/gfl_wide", "--steps", "2", method="hint"),
    ),
    Row(
        distill("--teacher", "{home}/some", "teacher.choose=lowest"),
        "Set teacher.choose=mean.",
        distill("--teacher", "{home}/some", "teacher.choose=mean"),
    ),
    Row(
        distill("--teacher", "{home}/gfl_wide", "--inherit", method="hint"),
        "Leave out --inherit, or start from one of them by --init.",
        distill("--teacher", "{home}/gfl_wide", "--init", "{home}/teacher", method="hint"),
    ),
    Row(
        distill("--then", "{home}/gfl_wide", method="boxes"),
        "Give all teachers by --teacher.",
        distill("--teacher", "{home}/gfl_wide", method="boxes"),
    ),
    Row(
        distill("--unlabelled", "{home}/more/images", "data.unlabelled.pseudo=none", teacher="some", method="boxes"),
        "Set data.unlabelled=null.",
        distill("data.unlabelled=null", teacher="some", method="boxes"),
    ),
    Row(
        distill("--then", "{home}/more/../teacher/"),
        "Leave one of them out, or name one by --teacher.",
        distill(),
    ),
    Row(
        distill("--teacher", "{home}/gfl_wide", "--self", student=None),
        "Leave out all but one --teacher, or choose a student by --student.",
        distill("--self", student=None),
    ),
    Row(
        distill("--classes-map", "cat", teacher="others"),
        'Write for example --classes-map "car=vehicle, truck=vehicle".',
        distill("--classes-map", "cat=car, dog=car", teacher="others"),
    ),
)
