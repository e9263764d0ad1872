"""`got evaluate quality`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, KEPT, evaluation_trainer, interruptible, print_entries
from got_core.detection.base import FROM
from got_core.errors import UserError
from got_core.evaluation.metrics.fid_kid import InceptionFeatures
from got_core.evaluation.results import RESULTS, check_writable, origin, write_results
from got_core.evaluation.scoring import Keeping
from got_core.evaluation.suites.quality import QualityScoring, image_files, quality_result
from got_core.weights.files import checksum, checksum_of


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Compare two folders of images, print FID and KID and write `results.json`.

    Raises:
        UserError: A folder or the weights are not there, too few images can be read, or results cannot be written.
    """
    if not (options.images and options.reference and options.inception):
        raise UserError("got evaluate quality needs --images FOLDER, --reference FOLDER and --inception FILE")
    folders = Path(options.reference), Path(options.images)
    sets = [image_files(folder) for folder in folders]
    files = [*sets[0], *sets[1]]
    network = InceptionFeatures.from_file(Path(options.inception))
    trainer = evaluation_trainer(options)
    output = Path(options.output or options.images)
    check_writable(output)
    weights = {"inception": checksum(Path(options.inception))}
    judge = {FROM: {"inception": options.inception}, "kind": network.kind, "weights": weights}
    scoring = QualityScoring(files, network, options.batch_size, options.num_workers, Keeping(output, judge))
    with interruptible(trainer, KEPT.format(output)):
        trainer.test(scoring, verbose=False)
    if not trainer.is_global_zero:
        return
    result = quality_result(scoring, files, len(sets[0]), BOOTSTRAP_SEED)
    sums = {"reference": checksum_of(folders[0], sets[0]), "images": checksum_of(folders[1], sets[1])}
    came = origin(folders[1], judge, {"subsets": BOOTSTRAP_SEED}, sums)
    write_results(output / RESULTS, result.as_json() | came)
    fid, kid = result.scores["fid"], result.scores["kid"]
    print(f"{result.images[1]} images of {folders[1]} against {result.images[0]} of {folders[0]}")
    print(f"FID {fid['mean']:.2f}")
    print(f"KID {kid['mean']:.5f}, 95% interval {kid['interval'][0]:.5f} to {kid['interval'][1]:.5f}")
    for note in result.notes:
        print(f"note: {note}")
    print_entries(result.missing, "missing, not scored")
    print(f"written: {output / RESULTS}")
