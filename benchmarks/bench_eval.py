"""What an evaluation and a whole epoch take against the textbook reference.

python benchmarks/bench_eval.py [--threads 1] [--budget 150]
"""

import click
import reference
import torch
from side_by_side import (
    MEAN,
    STD,
    elsewhere,
    machine,
    often,
    random_data,
    reference_group,
    take_turns,
    trainers,
)  # fmt: skip

from trainer.engine import metrics
from trainer.engine.evaluation import evaluate
from trainer.io.cores import available_cores

CALLS = 100
PARTS = ("diversity alone", "evaluation", "whole epoch")


def reference_work(
    model: str, width: float, train: int, validation: int, structure: str, threads: int
):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    data = random_data(train, validation, 32)
    group = reference_group(model, width, 4, structure)
    optimizer = reference.make_optimizer(group)
    training = reference.loader(data.train, MEAN, STD, batch=128, train=True)
    checking = reference.loader(data.validation, MEAN, STD, batch=128, train=False)

    def evaluation() -> None:
        reference.evaluate(group, checking)

    def epoch() -> None:
        group.train()
        for images, labels in training:
            reference.train_step(group, optimizer, images, labels)
        evaluation()

    return {"evaluation": evaluation, "whole epoch": epoch}


@click.command()
@click.option("--model", default="resnet32", show_default=True)
@click.option("--width", default=1.0, show_default=True)
@click.option("--train", default=1152, show_default=True, help="Training images.")
@click.option("--validation", default=128, show_default=True, help="Validation images.")
@click.option("--threads", default=available_cores(), show_default=True)
@click.option("--budget", default=300.0, show_default=True, help="Seconds for all.")
def main(
    model: str, width: float, train: int, validation: int, threads: int, budget: float
) -> None:
    """Print a table: seconds of the reference, and how many times as fast each variant is."""
    print(f"{model} ×{width:g}, groups of 4, {train} training and {validation} validation images")
    print(machine(threads))
    print(f"{'structure':<10}{'part':<18}{'reference':>12}  times as fast")
    for structure in ("branch", "network"):
        torch.manual_seed(0)
        data = random_data(train, validation, 32)
        theirs = elsewhere(reference_work, model, width, train, validation, structure, threads)
        work = {(part, "reference"): call for part, call in theirs.items()}
        logits = torch.randn(validation, 3, 10)
        members = [torch.softmax(member, dim=1) for member in logits.unbind(1)]
        work["diversity alone", "reference"] = often(CALLS, reference.diversity_sum, members)
        work["diversity alone", "trainer"] = often(CALLS, metrics.pairwise_diversity, logits)
        fields = {"model": model, "width": width, "structure": structure, "epochs": 1000}
        for (precision, executor), t in trainers(data, num_threads=threads, **fields).items():
            if precision == "fp32":  # which evaluation always is
                work["evaluation", f"fp32 {executor}"] = lambda t=t: evaluate(
                    t.group, t.method, t._validation
                )
            if (precision, executor) != ("fp32", "fused"):
                work["whole epoch", f"{precision} {executor}"] = t.run_epoch
        took = take_turns(work, rounds=7, budget_s=budget / 2)
        for part in PARTS:
            base = took[part, "reference"]
            each_s = base / CALLS if part == "diversity alone" else base
            ratios = ", ".join(
                f"{name} {base / seconds:.2f}×"
                for (of, name), seconds in took.items()
                if of == part and name != "reference"
            )
            print(f"{structure:<10}{part:<18}{each_s:>10.4f} s  {ratios}", flush=True)


if __name__ == "__main__":
    main()
