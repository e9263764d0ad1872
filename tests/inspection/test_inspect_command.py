"""`got inspect`, as typed."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from full_size import write_configurations

from got_core.cli.main import main
from got_core.paths import ROOT

SCENES = str(ROOT / "recipes" / "scenes_dit.yaml")
TWO_GIGABYTES = 2 * 2**20
"""In the kilobytes that the system counts in."""


def memory(name):
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


@contextmanager
def small_memory(kilobytes):
    """Check that this process's memory never grows by so much inside, whatever other tests took before."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here on.
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < kilobytes


def inspected(capsys, *arguments):
    main(["inspect", *arguments])
    return capsys.readouterr().out


def test_a_recipe_is_inspected_alone_and_on_many_devices(capsys):
    assert "one device: fits" in inspected(capsys, "--config", SCENES, "--memory", "1GB")
    many = inspected(capsys, "--config", SCENES, "--nodes", "2", "--devices", "4", "--memory", "0.3GB", "--tflops", "1")
    assert "DDP: does not fit" in many
    assert "FSDP2: does not fit" in many
    assert "optimizer step of 256 samples" in " ".join(many.split())


def test_a_whole_run_is_predicted_for_more_and_more_devices(capsys):
    printed = inspected(capsys, "--config", SCENES, "--tflops", "0.001", "--price", "2", "--data.global_batch_size=64")
    rows = [line.split("│")[1:-1] for line in printed[printed.index("device-hour") :].splitlines() if "│" in line]
    devices, batches, computing = ([row[place].strip() for row in rows] for place in (0, 1, 2))
    assert devices == ["8", "64", "512"]
    assert batches == ["64", "64", "512"]
    assert float(computing[0]) == pytest.approx(8 * float(computing[1]), rel=0.02)
    assert computing[1] == computing[2]


def test_a_batch_that_does_not_divide_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--config", SCENES, "--data.global_batch_size=100", "--devices", "3"])
    assert ended.value.code == 2
    assert "a global batch of 100 does not divide into batches of 32 on 3 devices" in capsys.readouterr().err


def test_a_price_without_a_rate_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--config", SCENES, "--price", "2"])
    assert ended.value.code == 2
    assert "needs --tflops" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "many", "backbone", "forward", "fits"),
    [
        (
            "got_sdxl_pretrain",
            ("--nodes", "4", "--devices", "8", "--memory", "80GB"),
            "2,567.49",
            "6.75",
            "FSDP2: fits",
        ),
        ("got_dit_pretrain", ("--nodes", "2", "--devices", "8", "--memory", "80GB"), "2,048.45", "2.87", "FSDP2: fits"),
        ("got_small", ("--memory=24GB",), "373.98", "0.13", "one device: fits"),
    ],
)
def test_recipes_of_full_size_are_counted_without_weights(
    tmp_path, monkeypatch, capsys, recipe, many, backbone, forward, fits
):
    """Millions of the backbone's parameters, its TFLOP forward, and whether the recipe fits what it is made for."""
    write_configurations(tmp_path)
    monkeypatch.chdir(tmp_path)
    with small_memory(TWO_GIGABYTES):
        printed = inspected(capsys, "--config", f"recipes/{recipe}.yaml", *many)
    counted, spent = [line.split("│") for line in printed.splitlines() if "backbone" in line]
    assert counted[2].strip() == backbone
    assert spent[2].strip() == forward
    assert fits in printed


def test_a_better_setting_of_activation_checkpointing_is_proposed(capsys):
    small = ("--config", SCENES, "--size", "64x64", "--memory")
    wasteful = inspected(capsys, *small, "1GB", "--model.activation_checkpointing", "true")
    assert "--model.activation_checkpointing false fits, and takes" in wasteful.replace("\n", " ")
    of_two = inspected(capsys, *small, "1GB", "--devices", "2", "--model.activation_checkpointing", "true")
    assert "--model.activation_checkpointing false fits under DDP and FSDP2, and takes" in of_two.replace("\n", " ")
    assert "--model.activation_checkpointing" not in inspected(capsys, *small, "1GB")
    assert "--model.activation_checkpointing true fits" in inspected(capsys, *small, "0.7GB").replace("\n", " ")


def test_a_cache_leaves_no_encoding(capsys):
    def codec(*options):
        printed = inspected(capsys, "--config", SCENES, "--size", "64x64", *options)
        return [line.split("│")[2].strip() for line in printed.splitlines() if "codec" in line][-1]

    assert float(codec()) > 0
    assert float(codec("--data.cache", "mine")) == 0
