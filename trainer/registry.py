"""Methods, networks and data sets by name, with what a configuration must know of them; no torch.

A new method is one file in ``trainer/methods/`` and one entry here; a new network is a function in
``trainer/models/`` and one entry here; a new data set is one file in ``trainer/data/sources/`` and
one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

Structure = Literal["network", "branch"]


@dataclass(frozen=True)
class MethodInfo:
    """A training method.

    Attributes:
        import_path: ``module:Class``, a ``trainer.methods.base.Method``.
        summary: One line for ``okddip-search methods``.
        source: Where it was published.
        structures: Groups that it can train.
        grouped: Whether it trains ``num_peers + 1`` members; else it trains one network.
        temperature: T where the configuration gives none: as published.
        hyperparameters: Method-specific fields of ``TrainConfig``: those that say how its members
            teach; another method reads others, or gives them another meaning.
        same_steps: Whether its losses do the same operations in every step, whatever the epoch,
            so that a CUDA graph can repeat them (executor ``cuda_graph``).
    """

    import_path: str
    summary: str
    source: str
    structures: tuple[Structure, ...] = ("network", "branch")
    grouped: bool = True
    temperature: float = 3.0
    hyperparameters: tuple[str, ...] = ("temperature", "peer_weight", "ramp_epochs")
    same_steps: bool = True


@dataclass(frozen=True)
class ModelInfo:
    """A network.

    Attributes:
        import_path: ``module:function``; called with ``channels``, ``num_classes`` and ``width`` it
            returns a ``trainer.models.Architecture``.
        arguments: Further keyword arguments of the function.
        summary: One line for ``okddip-search models --json``.
        min_size: Smallest image side in pixels that it can be fed.
        native_size: Image side in pixels that it was published for.
        class_counts: Numbers of classes that it was published with.
        widths: The only values of ``width`` that there are; None: any.
    """

    import_path: str
    arguments: Mapping[str, Any]
    summary: str
    min_size: int = 8
    native_size: int = 32
    class_counts: tuple[int, ...] = (10, 100)
    widths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class DataSetInfo:
    """A data set.

    Attributes:
        import_path: ``module:Class``, a ``trainer.data.sources.base.Source``.
        summary: One line: the files that it reads.
        images: Images of the training and of the test part, where their number is beyond doubt;
            else they are counted.
        channels: 1 (grey) or 3 (RGB); None: it depends on the files.
        classes: Number of classes; None: it depends on the files.
        side: Pixels a side, where ``image_size`` is not set.
        has_files: Whether every image is a file, of any size: such a data set needs an
            ``image_size``, can be streamed, and may hold images that cannot be decoded.
        needs_root: Whether ``data.root`` has to say where it is.
        pad: Pixels of zero padding before the random crop; None: an eighth of the image's side.
        flip: Whether a mirrored image keeps its class.
    """

    import_path: str
    summary: str
    images: tuple[int, int] | None = None
    channels: int | None = 3
    classes: int | None = None
    side: int = 32
    has_files: bool = False
    needs_root: bool = False
    pad: int | None = None
    flip: bool = True


METHODS: dict[str, MethodInfo] = {
    "okddip": MethodInfo(
        "trainer.methods.okddip:OKDDip",
        "diverse peers teach each other through attention, their ensemble teaches the leader",
        "Chen et al. 2020",
        hyperparameters=(
            "temperature",
            "attention_dim",
            "peer_weight",
            "leader_weight",
            "ramp_epochs",
            "aggregate",
            "detach_targets",
            "attention",
            "two_level",
        ),
    ),
    "single": MethodInfo(
        "trainer.methods.single:Single",
        "one network, cross-entropy alone: the baseline",
        "-",
        grouped=False,
        hyperparameters=(),
    ),
    "independent": MethodInfo(
        "trainer.methods.independent:Independent",
        "a group without distillation: what more members alone bring",
        "Chen et al. 2020 (Ind)",
        hyperparameters=(),
    ),
    "dml": MethodInfo(
        "trainer.methods.dml:DML",
        "deep mutual learning: every member learns from the others",
        "Zhang et al. 2018",
        temperature=1.0,
        hyperparameters=("temperature", "peer_weight", "dml_target"),
    ),
    "cl_ilr": MethodInfo(
        "trainer.methods.cl_ilr:CLILR",
        "collaborative learning: branches learn from the others, the trunk's gradient is scaled",
        "Song & Chai 2018",
        structures=("branch",),
    ),
    "one": MethodInfo(
        "trainer.methods.one:ONE",
        "on-the-fly native ensemble: a gate mixes the branches into their teacher",
        "Lan et al. 2018",
        structures=("branch",),
    ),
    "kd": MethodInfo(
        "trainer.methods.kd:KD",
        "one network learns from a larger trained one",
        "Hinton et al. 2015",
        grouped=False,
        hyperparameters=("temperature", "peer_weight", "teacher"),
    ),
    "codistillation": MethodInfo(
        "trainer.methods.codistillation:Codistillation",
        "members learn from stale copies of each other",
        "Anil et al. 2018",
        structures=("network",),
        temperature=1.0,
        hyperparameters=("temperature", "peer_weight", "ramp_epochs", "stale_steps"),
        same_steps=False,  # nothing is distilled before the burn-in is over
    ),
}


def _cifar_resnet(depth: int) -> ModelInfo:
    return ModelInfo(
        "trainer.models.resnet:cifar_resnet",
        {"depth": depth, "bottleneck": depth > 100},
        f"ResNet-{depth} for 32×32 images (He et al. 2016)",
    )


def _wide_resnet(depth: int, widen: int) -> ModelInfo:
    return ModelInfo(
        "trainer.models.wrn:wide_resnet",
        {"depth": depth, "widen": widen},
        f"WRN-{depth}-{widen} (Zagoruyko & Komodakis 2016)",
    )


def _imagenet(
    function: str, summary: str, widths: tuple[float, ...] | None, **arguments: Any
) -> ModelInfo:
    return ModelInfo(
        f"trainer.models.imagenet:{function}",
        arguments,
        f"{summary}, torchvision's",
        native_size=224,
        class_counts=(1000,),
        widths=widths,
    )


def _imagenet_resnet(depth: int) -> ModelInfo:
    return _imagenet("resnet", f"ResNet-{depth} (He et al. 2016)", (1.0,), depth=depth)


MODELS: dict[str, ModelInfo] = {
    **{f"resnet{depth}": _cifar_resnet(depth) for depth in (8, 14, 20, 32, 56, 110)},
    "wrn20_8": ModelInfo(
        "trainer.models.resnet:cifar_resnet",
        {"depth": 20, "bottleneck": True, "widen": 8},
        "ResNet-20 of bottlenecks, 8 times wider inside (Chen et al. 2020)",
    ),
    "wrn16_2": _wide_resnet(16, 2),
    "wrn28_10": _wide_resnet(28, 10),
    "vgg16": ModelInfo(
        "trainer.models.vgg:vgg16",
        {},
        "VGG-16 with batch norm (Simonyan & Zisserman 2015)",
        min_size=32,  # five max-poolings
    ),
    "densenet40_12": ModelInfo(
        "trainer.models.densenet:densenet_bc",
        {"depth": 40, "growth": 12},
        "DenseNet-BC-40-12 (Huang et al. 2017)",
    ),
    **{f"resnet{depth}": _imagenet_resnet(depth) for depth in (18, 34, 50)},
    "mobilenet_v2": _imagenet("mobilenet_v2", "MobileNetV2 (Sandler et al. 2018)", None),
    "shufflenet_v2": _imagenet(
        "shufflenet_v2", "ShuffleNetV2 (Ma et al. 2018)", (0.5, 1.0, 1.5, 2.0)
    ),
}


def _image_files(name: str, summary: str, **facts: Any) -> DataSetInfo:
    return DataSetInfo(f"trainer.data.sources.{name}", summary, has_files=True, **facts)


def _grey(name: str, summary: str, **facts: Any) -> DataSetInfo:
    """Return one of the sets in MNIST's format: 28 × 28 pixels, ten classes."""
    source = f"trainer.data.sources.idx:{name}"
    return DataSetInfo(source, summary, None, 1, 10, pad=2, **facts)


def _cifar(classes: int) -> DataSetInfo:
    summary = f"CIFAR-{classes}: the folder of its Python archive"
    return DataSetInfo(
        "trainer.data.sources.cifar:Cifar", summary, (50_000, 10_000), 3, classes, pad=4
    )


DATA_SETS: dict[str, DataSetInfo] = {
    "digits": DataSetInfo(
        "trainer.data.sources.digits:Digits",
        "scikit-learn's 1,797 digits of 8 × 8 pixels: no files needed",
        (1_437, 360),
        1,
        10,
        8,
        flip=False,
    ),
    "fashion_mnist": _grey("FashionMNIST", "Fashion-MNIST: four IDX files, gzipped or not"),
    "mnist": _grey("MNIST", "MNIST: four IDX files, gzipped or not", flip=False),
    "kmnist": _grey("KMNIST", "Kuzushiji-MNIST: four IDX files, gzipped or not", flip=False),
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "image_folder": _image_files(
        "image_folder:ImageFolder",
        "folders of images: train/, val/ and test/, or fewer, or the classes alone",
        needs_root=True,
    ),
    "csv": _image_files(
        "table:Table", "a CSV file of path, label and perhaps split", needs_root=True
    ),
    "parquet": _image_files(
        "table:Table", "a Parquet file of path, label and perhaps split", needs_root=True
    ),
    "npz": DataSetInfo(
        "trainer.data.sources.npz:Npz",
        "NumPy's .npz with x_train and y_train, or train_images and train_labels (MedMNIST)",
        channels=None,
        needs_root=True,
    ),
    "svhn": DataSetInfo(
        "trainer.data.sources.svhn:SVHN",
        "house numbers: train_32x32.mat and test_32x32.mat",
        classes=10,
        flip=False,
    ),
    "stl10": DataSetInfo(
        "trainer.data.sources.stl10:STL10",
        "STL-10: the folder stl10_binary",
        classes=10,
        side=96,
    ),
    "eurosat": _image_files("eurosat:EuroSAT", "EuroSAT: ten folders of satellite images"),
    "flowers102": _image_files("flowers102:Flowers102", "102 flowers: the folder flowers-102"),
    "pets": _image_files("pets:Pets", "37 breeds of cats and dogs: the folder oxford-iiit-pet"),
}


def width_problem(model: str, width: float) -> str:
    """Say why a network does not come in this width, or return an empty string."""
    widths = MODELS[model].widths
    if widths is None or width in widths:
        return ""
    if widths == (1.0,):
        return f"{width:g} is not possible: {model} has no width, leave it at 1"
    return f"{width:g} is not possible: {model} comes in " + ", ".join(f"{w:g}" for w in widths)


def readers_of(field: str) -> list[str]:
    """Return the methods on which a field of ``TrainConfig`` has an effect."""
    if field == "num_peers":
        return [name for name, info in METHODS.items() if info.grouped]
    if field == "structure":
        return [name for name, info in METHODS.items() if len(info.structures) > 1]
    readers = [name for name, info in METHODS.items() if field in info.hyperparameters]
    return readers or list(METHODS)


def load_object(import_path: str) -> Any:
    """Import what ``module:name`` points to."""
    module, _, name = import_path.partition(":")
    return getattr(import_module(module), name)
