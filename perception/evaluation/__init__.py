"""How good a model is, in each dataset's own label space: COCO AP for boxes, IoU for class maps. No torch."""
