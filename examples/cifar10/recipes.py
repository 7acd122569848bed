"""How each network is trained: the published recipes, and for all a modern one, a long one and a fast one."""

from dataclasses import dataclass, replace

from errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run besides network, data and seed.

    Args:
        name: What the results call it.
        optimizer: ``"sgd"`` or ``"adamw"``.
        lr: Learning rate; the peak of a one-cycle schedule.
        momentum: Of SGD.
        nesterov: Of SGD.
        weight_decay: Never on norms and biases.
        schedule: ``"one-cycle"`` (a straight warm-up, then half a cosine to 0), ``"step"``, ``"plateau"`` (on the
            validation loss) or ``"constant"``.
        warmup: Share of the steps spent warming up, for ``"one-cycle"``.
        step_size: Epochs between two drops, for ``"step"``.
        factor: What the learning rate is multiplied by at a drop, for ``"step"`` and ``"plateau"``.
        patience: Epochs without a better validation loss before a drop, for ``"plateau"``.
        batch_size: Images a step.
        epochs: Passes over the training images.
        augment: A pipeline of pipelines.py.
        augment_with: ``"albumentations"``, in processes of the CPU, or ``"torch"``, on the device that trains.
        flip: ``"random"``, or ``"alternating"``: each image by turns as it is and mirrored.
        mixup: Both parameters of the Beta distribution of mixup; 0 is none.
        cutmix: The same of CutMix.
        mix_share: Share of the images that are mixed.
        mix_rising: The share rises from 0 over the whole run.
        dropout: None keeps the network's own.
        ema_decay: Decay of the averaged weights, which are then the ones evaluated; 0 evaluates the trained ones.
        label_smoothing: Of the cross entropy, in training.
        distill: Weight of what a teacher says, against the labels; 0 where there is no teacher.
        temperature: What both logits are divided by before they are compared.
        source: Where the numbers are from.
    """

    name: str
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    step_size: int = 1
    factor: float = 1.0
    patience: int = 0
    batch_size: int = 128
    epochs: int = 50
    augment: str = "published"
    augment_with: str = "albumentations"
    flip: str = "random"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: float = 1.0
    mix_rising: bool = False
    dropout: float | None = None
    ema_decay: float = 0.0
    label_smoothing: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    source: str = ""


NAMES = ("modern", "long", "fast", "published")
OPTIMIZERS = ("sgd", "adamw")
BACKENDS = ("albumentations", "torch")
FLIPS = ("random", "alternating")

MODERN = Recipe(
    "modern",
    lr=0.4,
    nesterov=True,
    weight_decay=5e-4,
    schedule="one-cycle",
    warmup=0.2,
    batch_size=256,
    epochs=120,
    augment="cutout",
    augment_with="torch",
    flip="alternating",
    dropout=0.0,
    ema_decay=0.999,
    source="ours",
)

MODERN_DIGITS = replace(MODERN, name="modern (digits)", lr=0.2, batch_size=64, epochs=20, augment="gentle")
"""The modern recipe for a set thirty times smaller: smaller steps, fewer of them."""

LONG = replace(
    MODERN,
    name="long",
    epochs=160,
    augment="varied",
    mixup=0.4,
    mix_share=0.5,
    mix_rising=True,
    source="ours, after what cifar10-tiniest does: small turns, mixup that rises, a long cosine",
)
"""For networks that the modern recipe leaves short of what they can do."""

FAST = replace(
    MODERN,
    name="fast",
    epochs=75,
    augment="gentle",
    ema_decay=0.995,
    source="ours, after what the speed runs do: few epochs, crops and alternating flips alone; untuned",
)
"""For the shortest time to an accuracy well below what the network can do."""

PUBLISHED = {
    "era_s9": Recipe("published", lr=0.01, schedule="plateau", factor=0.1, patience=1, epochs=50, source="published"),
    "late_100k": Recipe(
        "published",
        lr=0.1,
        schedule="one-cycle",
        warmup=0.2,
        epochs=269,
        augment="late",
        source="batch size, epochs and augmentation published; optimizer and schedule unpublished, ours",
    ),
    "net4": Recipe("published", lr=0.3, schedule="step", step_size=6, factor=0.5, epochs=76, source="published"),
    "eva8_s6": Recipe(
        "published",
        lr=0.07,
        schedule="step",
        step_size=1,
        factor=0.982143,
        batch_size=64,
        epochs=80,
        source="published",
    ),
    "twelve_layer": Recipe(
        "published",
        lr=0.1,
        schedule="one-cycle",
        warmup=0.2,
        epochs=84,
        source="batch size and epochs published; optimizer and schedule unpublished, ours",
    ),
}


def choose(name: str, model: str, *, digits: bool = False) -> Recipe:
    """The recipe of a name.

    Args:
        name: One of ``NAMES``.
        model: The network; each has its own published recipe.
        digits: True for the digits, which the modern recipe trains in smaller steps.

    Raises:
        UsageError: The network has no published recipe.
    """
    if name in ("long", "fast"):
        return LONG if name == "long" else FAST
    if name == "modern":
        return MODERN_DIGITS if digits else MODERN
    if model not in PUBLISHED:
        raise UsageError(
            f"--model {model} has no published recipe, only {', '.join(PUBLISHED)} have; use --recipe modern"
        )
    return PUBLISHED[model]
