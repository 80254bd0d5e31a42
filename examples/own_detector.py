"""A detector of one's own in the manner of CenterNet: every object is learnt by the cell at its centre."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu, smooth_l1_loss

import detdistill as dd

STRIDE = 8


class CenterNet(dd.Detector):
    def __init__(self, class_names, width=24):
        super().__init__()
        layout = dd.ClassLayout((STRIDE,), dd.ClassKind.SIGMOID, 1, tuple(class_names))
        self.spec = dd.DetectorSpec("centernet", tuple(class_names), dd.PyramidLayout((STRIDE,), width), layout)
        self.pixels = dd.Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        sides = zip((3, width, width), (width, width, width), strict=True)
        self.body = nn.Sequential(*(nn.Conv2d(i, o, 3, 2, 1) for i, o in sides)).append(nn.BatchNorm2d(width))
        self.heat, self.size = nn.Conv2d(width, len(class_names), 3, 1, 1), nn.Conv2d(width, 2, 3, 1, 1)
        nn.init.constant_(self.heat.bias, -2.0)

    def extract(self, batch):
        return dd.Pyramid((relu(self.body(self.pixels(batch))),), (STRIDE,))

    def observe(self, pyramid, batch, needs):
        heat = self.heat(pyramid.levels[0])
        logits = dd.ClassLogits((heat.unsqueeze(1),), (STRIDE,), dd.ClassKind.SIGMOID)
        loses = needs & {dd.Need.TASK_LOSS, dd.Need.IMAGE_LOSSES}
        loss = self.loss(heat, self.size(pyramid.levels[0]), batch) if loses else None
        return dd.Observation(pyramid, class_logits=logits, task_loss=loss)

    def loss(self, heat, size, batch):
        classes, boxes = [], []
        for image, target in enumerate(taught.taught() for taught in batch.targets):
            centres = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2 / STRIDE
            x, y = centres.long().unbind(1)
            x, y = x.clamp(max=heat.shape[3] - 1), y.clamp(max=heat.shape[2] - 1)
            wanted, count = torch.zeros_like(heat[image]), max(len(x), 1)
            wanted[target.labels, y, x] = 1.0
            classes.append(binary_cross_entropy_with_logits(heat[image], wanted, reduction="sum") / count)
            sides = ((target.boxes[:, 2:] - target.boxes[:, :2]) / STRIDE).clamp(min=0.1).log()
            boxes.append(smooth_l1_loss(size[image][:, y, x].T, sides, reduction="sum") / count)
        classes, boxes = torch.stack(classes)[:, None], torch.stack(boxes)[:, None]
        return dd.TaskLoss((classes + boxes).sum(1).mean(), (STRIDE,), classes, boxes)

    def candidates(self, batch, sizes):
        (level,) = self.extract(batch).levels
        rows, columns = (torch.arange(count, device=level.device) + 0.5 for count in level.shape[2:])
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).flatten(0, 1) * STRIDE
        sides = self.size(level).clamp(max=6).exp().flatten(2).mT * STRIDE
        edges = sizes.flip(1).repeat(1, 2)[:, None].to(sides)
        corners = torch.cat((centres - sides / 2, centres + sides / 2), 2).clamp(min=0).minimum(edges)
        scores = self.heat(level).sigmoid().flatten(2).mT
        return dd.Candidates(corners, scores * (scores == scores.amax(2, keepdim=True)))

    def limits(self):
        return dd.Limits(score=0.0, overlap=None, most=100)

    def detect(self, batch):
        found = self.candidates(batch, torch.tensor(batch.sizes, device=batch.images.device))
        scores, labels = found.scores.max(dim=2)
        best, cells = scores.topk(min(self.limits().most, scores.shape[1]))
        chosen = zip(found.boxes, labels, best, cells, strict=True)
        return tuple(dd.Detections(boxes[own], score, label[own]) for boxes, label, score, own in chosen)
