"""FID and KID: their network, their formulas, and the command."""

import json
import sys
from pathlib import Path

import pytest
import torch
from edit_sets import edit_samples
from evaluation_runs import quiet_trainer
from pickles import Touch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.models import inception
from two_ranks import run_on_ranks

from got_core.cli.main import main
from got_core.errors import UserError
from got_core.evaluation.metrics.fid_kid import InceptionFeatures, frechet_distance, kernel_distance
from got_core.evaluation.suites.quality import QualityScoring, image_files
from got_core.types import to_pil


def features(seed, number, width=4, shift=0.0):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.fixture(scope="module")
def weights():
    """Random weights of FID's network: its names and shapes are torchvision's, with 1008 classes."""
    generator = torch.Generator().manual_seed(0)
    network = inception.Inception3(1008, aux_logits=False, init_weights=False)
    return {
        name: torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        if tensor.ndim == 4
        else tensor
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def fid_file(tmp_path_factory, weights):
    file = tmp_path_factory.mktemp("inception") / "fid.pth"
    torch.save(weights, file)
    return file


def test_features_are_of_images_of_any_size_one_by_one(fid_file):
    network = InceptionFeatures.from_file(fid_file)
    samples = edit_samples(3)
    wide = torch.cat([samples[0].target, samples[1].target], dim=2)
    several = network([samples[0].target, wide, samples[2].target])
    assert several.shape == (3, 2048)
    torch.testing.assert_close(network([wide])[0], several[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network([samples[2].target])[0], several[2], rtol=1e-4, atol=1e-4)
    assert network.kind.startswith("torch-fidelity ")


def tensorflows_resize(image, side):
    """TensorFlow 1's bilinear resize: pixel i of the result is at i times the ratio, without antialiasing."""
    _, height, width = image.shape
    rows, columns = (torch.arange(side, dtype=torch.float64) * (length / side) for length in (height, width))
    above, left = rows.floor().long(), columns.floor().long()
    below, right = (above + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, along = (rows - above)[:, None], (columns - left)[None]
    top = image[:, above][:, :, left] * (1 - along) + image[:, above][:, :, right] * along
    bottom = image[:, below][:, :, left] * (1 - along) + image[:, below][:, :, right] * along
    return top * (1 - down) + bottom * down


@pytest.mark.parametrize("size", [(40, 64), (400, 350)])
def test_images_are_resized_as_fids_authors_do(fid_file, size):
    network = InceptionFeatures.from_file(fid_file)
    pixels = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(1))
    seen = []
    network.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    network([pixels / 127.5 - 1])
    torch.testing.assert_close(
        seen[0].double(), (tensorflows_resize(pixels.double(), 299) - 128) / 128, atol=2e-4, rtol=0
    )


def test_other_weights_are_refused_and_code_in_a_file_is_not_run(tmp_path, weights):
    torch.save(inception.Inception3(init_weights=False).state_dict(), tmp_path / "torchvision.pth")
    torch.save({"fc.weight": weights["fc.weight"]}, tmp_path / "part.pth")
    for name in ("torchvision.pth", "part.pth"):
        with pytest.raises(UserError, match=r"not FID's own Inception v3: ") as refused:
            InceptionFeatures.from_file(tmp_path / name)
        assert "\n" not in str(refused.value)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="not readable as weights"):
        InceptionFeatures.from_file(tmp_path / "text.pth")
    torch.save({"fc.weight": Touch(tmp_path / "mark")}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="not readable as weights"):
        InceptionFeatures.from_file(tmp_path / "code.pth")
    assert not (tmp_path / "mark").exists()
    with pytest.raises(UserError, match=r"no such file; FID and KID need FID's own Inception v3: pt_inception"):
        InceptionFeatures.from_file(tmp_path / "nowhere.pth")


def test_a_missing_library_is_one_line(fid_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"FID and KID need torch-fidelity: pip install") as refused:
        InceptionFeatures.from_file(fid_file)
    assert "\n" not in str(refused.value)


def test_frechet_distance_in_closed_form():
    """Of distributions of one covariance it is the squared distance of the means; of a scaled one, known too."""
    rows = features(0, 500)
    assert frechet_distance(rows, rows + 2) == pytest.approx(4 * 4, rel=1e-6)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-6)
    centred = rows - rows.mean(dim=0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(centred.var(dim=0).sum()), rel=1e-6)
    with pytest.raises(ValueError, match="two images of each set"):
        frechet_distance(rows[:1], rows)


class AsTheyAre(torch.nn.Module):
    """Features in place of images."""

    num_features = 4

    def forward(self, features):
        return features


@pytest.mark.parametrize("number", [3, 50])
def test_frechet_distance_is_torchmetrics(number):
    metric = FrechetInceptionDistance(AsTheyAre())
    first, second = features(1, number), features(2, 30, shift=1.0) * 2
    metric.update(first, real=True)
    metric.update(second, real=False)
    assert frechet_distance(first, second) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_kernel_distance_by_hand_and_in_its_interval():
    first, second = features(1, 8), features(2, 8, shift=1.0)

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    def plain(a, b):
        within = [(kernel(x, x).sum() - kernel(x, x).diag().sum()) / (len(x) * (len(x) - 1)) for x in (a, b)]
        return float(sum(within) - 2 * kernel(a, b).mean())

    everything = torch.combinations(torch.arange(8), 4)
    exact = sum(plain(first[i], second[j]) for i in everything for j in everything) / len(everything) ** 2
    found = kernel_distance(first, second)
    assert found.subset_size == 4
    assert exact == pytest.approx(plain(first, second), rel=1e-6)
    assert abs(found.mean - exact) < 4 * (found.interval[1] - found.mean) / 1.96 / 10
    assert kernel_distance(first, second) == found
    with pytest.raises(ValueError, match="four images of each set"):
        kernel_distance(first[:3], second)


def test_kernel_distances_interval_holds_the_truth_mostly():
    truth = kernel_distance(features(1000, 20_000), features(1001, 20_000, shift=0.5)).mean
    holds = []
    for seed in range(30):
        low, high = kernel_distance(features(2 * seed, 200), features(2 * seed + 1, 200, shift=0.5)).interval
        holds.append(low <= truth <= high)
    assert 25 <= sum(holds) < 31


def write_images(root: Path, number: int, first: int = 0) -> Path:
    root.mkdir(parents=True)
    for index, sample in enumerate(edit_samples(first + number)[first:]):
        to_pil(sample.target).save(root / f"{index}.png")
    return root


def test_features_that_are_not_finite_are_left_out(tmp_path, fid_file, monkeypatch):
    root = write_images(tmp_path / "images", 3)
    rows = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [3.0, 4.0]])
    monkeypatch.setattr(InceptionFeatures, "forward", lambda self, images: rows)
    scoring = QualityScoring(image_files(root), InceptionFeatures.from_file(fid_file))
    quiet_trainer().test(scoring, verbose=False)
    assert scoring.features(0, 3).tolist() == [[1, 2], [3, 4]]
    assert scoring.features(1, 3).tolist() == [[3, 4]]
    assert scoring.remarks == {1: "its features are not finite numbers"}


def evaluate(*arguments):
    main(["evaluate", "quality", "--accelerator", "cpu", *map(str, arguments)])


def test_two_folders_are_compared(tmp_path, fid_file, capsys):
    write_images(tmp_path / "real" / "part", 5)
    write_images(tmp_path / "ours", 6, first=5)
    (tmp_path / "ours" / "4.png").write_bytes(b"broken")
    evaluate("--images", tmp_path / "ours", "--reference", tmp_path / "real", "--inception", fid_file)
    printed = capsys.readouterr().out
    assert "5 images of" in printed
    assert "note: FID of fewer than 10,000 images is too high" in printed
    assert f"missing: {tmp_path}/ours/4.png: " in printed
    found = json.loads((tmp_path / "ours" / "results.json").read_text())
    assert found["counts"] == {"reference": 5, "images": 5, "missing": 1}
    assert list(found["scores"]) == ["overall"]
    fid, kid = found["scores"]["overall"].values()
    assert (fid["mean"] > 0, fid["interval"], fid["n"], kid["subset_size"]) == (True, None, 5, 2)
    low, high = kid["interval"]
    assert low < kid["mean"] < high
    assert set(found["checksums"]) == {"reference", "images"}
    assert found["evaluator"]["kind"].startswith("torch-fidelity ")
    assert set(found["evaluator"]["weights"]) == {"inception"}
    cached = tmp_path / "ours" / "cache" / "scores-0.jsonl"
    lines = cached.read_text().splitlines(keepends=True)
    assert len(lines) == 10
    cached.write_text("".join(lines[:6]) + lines[6][:500])
    evaluate("--images", tmp_path / "ours", "--reference", tmp_path / "real", "--inception", fid_file)
    assert json.loads((tmp_path / "ours" / "results.json").read_text()) == found
    assert len(cached.read_text().splitlines()) == 6 + 1 + 4


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        evaluate(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(tmp_path, fid_file, capsys):
    write_images(tmp_path / "few", 2)
    (tmp_path / "empty").mkdir()
    weights = ("--inception", fid_file)
    assert "needs --images FOLDER, --reference" in refused(capsys, "--images", tmp_path)
    nothing = refused(capsys, "--images", tmp_path / "empty", "--reference", tmp_path / "few", *weights)
    assert "there is no image in it" in nothing
    few = refused(capsys, "--images", tmp_path / "few", "--reference", tmp_path / "few", *weights)
    assert "KID needs four images of each set at least, not 2 and 2; 0 could not be read" in few


def extracted_by(rank: int, root: str, weights: str, ranks: int = 2) -> tuple[dict[int, str], torch.Tensor]:
    scoring = QualityScoring(image_files(Path(root)), InceptionFeatures.from_file(Path(weights)), 1)
    quiet_trainer(ranks).test(scoring, verbose=False)
    return scoring.remarks, scoring.features(0, 3)


@pytest.mark.distributed
def test_two_ranks_extract_what_one_does(tmp_path, fid_file):
    root = write_images(tmp_path / "images", 3)
    (root / "1.png").write_bytes(b"broken")
    remarks, alone = extracted_by(0, str(root), str(fid_file), ranks=1)
    assert (list(remarks), alone.shape) == ([1], (2, 2048))
    for found, both in run_on_ranks(extracted_by, tmp_path, str(root), str(fid_file)):
        assert found == remarks
        torch.testing.assert_close(both, alone)
