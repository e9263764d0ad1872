"""The 80 classes of COCO as GenEval's prompts spell them."""

from collections.abc import Mapping

# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
"""In the order of COCO's ids. Detectors spell some of them otherwise (mouse, remote, sofa, tvmonitor, ...)."""


def geneval_names(labels: Mapping[int, str]) -> tuple[str, ...]:
    """A detector's labels in GenEval's spelling: by COCO's order where there are 80 of them, else as they are.

    Raises:
        ValueError: There are 80, but they stand in another order than COCO's.
    """
    own = tuple(labels[place] for place in range(len(labels)))
    if len(own) != len(CLASSES):
        return own
    elsewhere = [name for place, name in enumerate(own) if name in CLASSES and CLASSES[place] != name]
    if elsewhere:
        raise ValueError(
            f"its 80 labels are not in COCO's order: {elsewhere[0]} is number {own.index(elsewhere[0])} and not "
            f"{CLASSES.index(elsewhere[0])}"
        )
    return CLASSES
