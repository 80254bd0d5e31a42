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

    def detect(self, batch):
        (level,) = self.extract(batch).levels
        scores, labels = self.heat(level).sigmoid().flatten(2).max(dim=1)
        best, cells = scores.topk(min(100, scores.shape[1]))
        centres = (torch.stack((cells % level.shape[3], cells // level.shape[3]), 2) + 0.5) * STRIDE
        sides = self.size(level).clamp(max=6).exp().flatten(2).mT.gather(1, cells[..., None].expand(-1, -1, 2)) * STRIDE
        corners = torch.cat((centres - sides / 2, centres + sides / 2), 2)
        edges = [corners.new_tensor((width, height, width, height)) for height, width in batch.sizes]
        found = zip(corners, edges, best, labels.gather(1, cells), strict=True)
        return tuple(dd.Detections(box.clamp(min=0).minimum(edge), score, k) for box, edge, score, k in found)
