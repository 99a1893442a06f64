"""What a batch is: exactly pad, crop, flip, normalise, in an order that (seed, epoch) decide."""

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from trainer.data.batches import EvaluationBatches, TrainingBatches, draw_augmentation
from trainer.data.images import ImageSet

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def random_images(count: int = 50, channels: int = 3, size: tuple[int, int] = (8, 8)) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, *size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count), tuple(str(i) for i in range(count)))


def moments(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2616)[:channels]


def batches(images: ImageSet, **options: object) -> TrainingBatches:
    options = {"pad": 2, "flip": True, "batch_size": 16, **options}
    return TrainingBatches(images, *moments(images.channels), **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("channels", "size", "pad", "flip"),
    [
        (3, (32, 32), 4, True),
        (1, (28, 28), 2, True),
        (1, (8, 8), 1, False),
        (3, (6, 9), 3, True),  # neither square nor even
        (3, (8, 8), 0, True),
        (3, (8, 8), 0, False),
    ],
)
def test_equals_torchvisions_pad_crop_flip_normalise(device, channels, size, pad, flip):
    images = random_images(50, channels, size)
    mean_C, std_C = moments(channels)
    draw = draw_augmentation(50, pad=pad, flip=flip, seed=7, epoch=3)
    produced = list(batches(images, pad=pad, flip=flip, device=device).epoch(7, 3))
    images_NCHW = torch.cat([batch for batch, _ in produced]).cpu()
    labels_N = torch.cat([labels for _, labels in produced]).cpu()

    assert torch.equal(labels_N, images.labels_N[draw.order_N])
    for i, source in enumerate(draw.order_N.tolist()):
        image = reference.pad(images.images_NCHW[source], [pad])
        image = reference.crop(image, int(draw.top_N[i]), int(draw.left_N[i]), *size)
        image = reference.horizontal_flip(image) if draw.flip_N[i] else image
        image = reference.to_dtype(image, torch.float32, scale=True)
        expected = reference.normalize(image, list(mean_C), list(std_C))
        torch.testing.assert_close(images_NCHW[i], expected, atol=1e-6, rtol=0)


def test_batches_are_float_channels_last_on_the_device():
    for images, labels in batches(random_images()).epoch(0, 0):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.shape[1:] == (3, 8, 8) and images.device.type == "cpu"


def test_an_epoch_is_a_pure_function_of_seed_and_epoch():
    def pixels(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat([images for images, _ in source.epoch(seed, epoch)])

    source = batches(random_images())
    first = pixels(0, 1)
    torch.rand(5)  # the global generator has no say, nor has what was drawn before
    pixels(0, 2)
    assert torch.equal(first, pixels(0, 1))
    others = [pixels(0, 2), pixels(1, 0), pixels(1, 1), pixels(2**63 - 1, 1), pixels(2**32, 1)]
    assert not any(torch.equal(first, other) for other in others)


def test_draws_cover_their_ranges_evenly():
    draw = draw_augmentation(9000, pad=4, flip=True, seed=0, epoch=0)
    assert sorted(draw.order_N.tolist()) == list(range(9000))
    for offsets_N in (draw.top_N, draw.left_N):
        counts = offsets_N.bincount()
        assert len(counts) == 9 and (counts - 1000).abs().max() < 150  # 5 standard deviations
    assert not torch.equal(draw.top_N, draw.left_N)
    assert abs(int(draw.flip_N.sum()) - 4500) < 240
    assert not draw_augmentation(9000, pad=4, flip=False, seed=0, epoch=0).flip_N.any()


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(32, [16, 16]), (34, [16, 16, 2]), (33, [16, 16]), (2, [2]), (15, [15]), (17, [16])],
)
def test_last_partial_batch_is_kept_unless_it_is_a_single_image(count, sizes):
    source = batches(random_images(count))
    produced = [len(labels) for _, labels in source.epoch(0, 0)]
    assert produced == sizes and len(source) == len(sizes)


def test_which_image_is_dropped_changes_with_the_epoch():
    source = batches(random_images(17))
    seen = [torch.cat([labels for _, labels in source.epoch(0, e)]) for e in range(20)]
    assert torch.cat(seen).unique().numel() == 17


@pytest.mark.parametrize(("count", "batch_size"), [(1, 16), (10, 1)])
def test_batches_of_one_image_are_refused(count, batch_size):
    with pytest.raises(ValueError, match="needs 2 images"):
        batches(random_images(count), batch_size=batch_size)


def test_images_in_memory_stay_as_they_were():
    images = random_images()
    before = images.images_NCHW.clone()
    for source in (
        batches(images, pad=0).epoch(0, 0),
        EvaluationBatches(images, *moments(3), batch_size=7),
    ):
        for batch, labels in source:
            batch.zero_()
            labels.zero_()
    assert torch.equal(images.images_NCHW, before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_sees_every_image_in_order_and_normalised(device, channels):
    images = random_images(33, channels)
    mean_C, std_C = moments(channels)
    source = EvaluationBatches(images, mean_C, std_C, batch_size=16, device=device)
    for _ in range(2):  # it can be iterated over again
        produced = list(source)
        assert [len(labels) for _, labels in produced] == [16, 16, 1] and len(source) == 3
        assert torch.equal(torch.cat([y for _, y in produced]).cpu(), images.labels_N)
        expected = reference.normalize(images.images_NCHW / 255, list(mean_C), list(std_C))
        result = torch.cat([x for x, _ in produced])
        torch.testing.assert_close(result.cpu(), expected, atol=1e-6, rtol=0)
        assert produced[0][0].is_contiguous(memory_format=torch.channels_last)
