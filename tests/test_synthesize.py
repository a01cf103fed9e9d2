"""synthesize_dit.py: folders, manifests, restarts, growth, damage, full disks, wrong input."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

import helper.files
import synthesize_dit
from dataset import generated_folder
from dataset.folders import read_training
from dataset.requested_images import SeedRange, number_of_images, request_of
from helper.device import has_compiler
from helper.errors import UserError, run_script

ROOT = Path(__file__).parent.parent
# 24 images in 5 batches, the last one filled up.
REFERENCE = [
    "--images_per_class",
    "8",
    "--batch_size",
    "5",
    "--num-sampling-steps",
    "6",
    "--device",
    "cpu",
]


def synthesize(pipeline, folder, *flags):
    return synthesize_dit.main(
        ["--model", str(pipeline), "--save_dir", str(folder), *map(str, flags)]
    )


def contents(folder):
    """{relative path: bytes} of the images in class folders."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*"))}


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def sheet_of(folder):
    return folder.with_name(f"{folder.name}_contact_sheet.png")


def declare_unfinished(folder):
    """Restores the manifest of a killed run."""
    state = manifest(folder) | {"complete": False, "finished": {}}
    (folder / "manifest.json").write_text(json.dumps(state))


@pytest.fixture(scope="module")
def reference(tiny_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "reference"
    assert synthesize(tiny_pipeline, folder, *REFERENCE)["made"] == 24
    return folder


@pytest.fixture
def copy(reference, tmp_path):
    """A copy of the reference folder, to be changed."""
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def test_folder_and_manifest(tiny_pipeline, reference, tmp_path, monkeypatch):
    assert list(contents(reference)) == [f"{c:04d}/{i:05d}.png" for c in range(3) for i in range(8)]
    for file in reference.glob("*/*"):
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")
            assert np.asarray(image).std() > 10
    assert len(set(contents(reference).values())) == 24
    state = manifest(reference)
    assert (
        state["complete"] and state["images"] == 24 and state["classes"] == {"0": 8, "1": 8, "2": 8}
    )
    assert state["class_names"] == ["bag", "coat", "shoe"]
    assert set(state["versions"]) >= {"torch", "diffusers", "python"}
    expected = {
        "generator": "tiny",
        "sampler": "ddpm",
        "cfg_scale": 2.0,
        "num_sampling_steps": 6,
        "seed": 0,
        "image_size": 16,
        "cfg_channels": 4,
        "time_embedding": "official",
        "format": "png",
        "grey": False,
    }
    assert expected.items() <= state["settings"].items()
    assert {file.name for file in reference.iterdir()} == {"manifest.json", "0000", "0001", "0002"}
    with Image.open(sheet_of(reference)) as sheet:
        assert sheet.width > 8 * 34 and sheet.height == 2 + 3 * 34
    monkeypatch.chdir(tmp_path)
    result = synthesize_dit.main(
        [
            "--model",
            str(tiny_pipeline),
            "--data_amount",
            "4",
            "--sampler",
            "ddim",
            "--num_sampling_steps",
            "2",
            "--cfg-scale",
            "1.5",
        ]
    )
    assert result["folder"] == "syn_dataset/tiny_ddim_s1.5_T2_seed0"
    assert manifest(Path(result["folder"]))["classes"] == {"0": 2, "1": 1, "2": 1}


def test_spacing_and_interval_belong_to_the_folder(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--model", str(tiny_pipeline), "--data_amount", "3", "--sampler", "ddim"]
    command += ["--num_sampling_steps", "4"]
    plain = synthesize_dit.main([*command, "--cfg-scale", "2"])
    flags = ["--cfg_interval", "0.3,0.8", "--timestep_spacing", "trailing"]
    result = synthesize_dit.main([*command, "--cfg-scale", "2", *flags])
    assert result["folder"] == "syn_dataset/tiny_ddim_s2_i0.3-0.8_T4_trailing_seed0"
    settings = manifest(Path(result["folder"]))["settings"]
    assert settings.pop("cfg_interval") == [0.3, 0.8]
    assert settings.pop("timestep_spacing") == "trailing"
    assert settings == manifest(Path(plain["folder"]))["settings"]
    assert contents(Path(result["folder"])) != contents(Path(plain["folder"]))
    # The same again is complete, other flags do not fit the folder
    assert synthesize_dit.main([*command, "--cfg-scale", "2", *flags])["made"] == 0
    with pytest.raises(UserError, match="cfg_interval|timestep_spacing"):
        synthesize_dit.main([*command, "--cfg-scale", "2", "--save_dir", result["folder"]])
    # Timesteps 999 749 499 249: guided at two of four
    cost = synthesize_dit.main([*command, "--cfg-scale", "2", *flags, "--estimate"])
    assert cost["evaluations"] == 3 * 6


@pytest.mark.parametrize("value", ["0.5", "0.6,0.2", "-0.1,0.5", "0,1.5", "nan,1", "a,b", "0,1,1"])
def test_wrong_interval(tiny_pipeline, value):
    command = ["--model", str(tiny_pipeline), "--cfg-scale", "2", f"--cfg_interval={value}"]
    with pytest.raises(UserError, match="cfg_interval"):
        synthesize_dit.main([*command, "--estimate"])


def test_interval_without_guidance(tiny_pipeline):
    command = ["--model", str(tiny_pipeline), "--cfg-scale", "1", "--cfg_interval", "0,0.5"]
    with pytest.raises(UserError, match="cfg_interval"):
        synthesize_dit.main([*command, "--estimate", "--data_amount", "3"])


def test_complete_folder_returns_at_once(tiny_pipeline, copy, capsys, monkeypatch):
    monkeypatch.setattr("synthesize_dit.load_pipeline", None)
    before = contents(copy), (copy / "manifest.json").stat().st_mtime_ns
    result = synthesize(tiny_pipeline, copy, *REFERENCE)
    assert (result["made"], result["images"]) == (0, 24)
    assert "is complete: 24 images of 3 classes" in capsys.readouterr().out
    assert (
        synthesize(tiny_pipeline, copy, *REFERENCE, "--classes", "1")["made"] == 0
    )  # a part of it
    assert (contents(copy), (copy / "manifest.json").stat().st_mtime_ns) == before


def test_image_depends_on_its_class_and_index_alone(tiny_pipeline, reference, tmp_path):
    for name, flags in {
        "batch": ["--batch_size", "7"],
        "classes": ["--classes", "2,0", "--batch_size", "1"],
    }.items():
        synthesize(tiny_pipeline, tmp_path / name, *REFERENCE, *flags)
        files = list((tmp_path / name).glob("*/*.png"))
        assert len(files) == {"batch": 24, "classes": 16}[name]
        pairs = [(file, reference / file.relative_to(tmp_path / name)) for file in files]
        ours, theirs = (
            np.stack([np.asarray(Image.open(pair[i])) for pair in pairs]).astype(int)
            for i in range(2)
        )
        assert abs(ours - theirs).max() <= 1 and (ours != theirs).mean() <= 1e-3
    other = synthesize(tiny_pipeline, tmp_path / "seed", *REFERENCE, "--seed", "1")
    assert not set(contents(Path(other["folder"])).values()) & set(contents(reference).values())


def test_growth_leaves_what_is_there(tiny_pipeline, tmp_path):
    steps, folder = ["--num-sampling-steps", "2", "--batch_size", "4"], tmp_path / "set"
    synthesize(tiny_pipeline, folder, *steps, "--classes", "0,2", "--images_per_class", "3")
    before = contents(folder)
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*/*")}
    assert (
        synthesize(tiny_pipeline, folder, *steps, "--images_per_class", "2")["made"] == 2
    )  # class 1
    assert (
        synthesize(tiny_pipeline, folder, *steps, "--classes", "0", "--images_per_class", "5")[
            "made"
        ]
        == 2
    )
    assert before.items() <= contents(folder).items()
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert manifest(folder)["classes"] == {"0": 5, "1": 2, "2": 3} and manifest(folder)["complete"]
    assert len(contents(folder)) == 10


def test_folder_of_an_earlier_version_grows(tmp_path):
    """tests/data/old_folder/README.md says how the folder was generated."""
    old, folder = ROOT / "tests/data/old_folder", tmp_path / "set"
    shutil.copytree(old, folder, ignore=shutil.ignore_patterns("README.md"))
    assert len(read_training(folder, 10).labels) == 6  # without the sheet
    model = ROOT / "save/models/fashion_mnist/DiT-6x160-2"
    flags = ["--sampler", "ddim", "--num-sampling-steps", 2, "--cfg-scale", 1, "--device", "cpu"]
    flags += ["--classes", "0-2", "--batch_size", 4]
    assert synthesize(model, folder, *flags, "--data_amount", 6)["made"] == 0
    sheet = (old / "contact_sheet.png").read_bytes()
    assert sheet_of(folder).read_bytes() == sheet
    assert {file.name for file in folder.iterdir()} == {"manifest.json", "0000", "0001", "0002"}
    assert contents(folder) == contents(old)

    shutil.copy(old / "contact_sheet.png", folder)
    assert synthesize(model, folder, *flags, "--data_amount", 9)["made"] == 3
    assert contents(old).items() < contents(folder).items() and len(contents(folder)) == 9
    assert not (folder / "contact_sheet.png").exists()
    assert sheet_of(folder).read_bytes() != sheet
    earlier, now = manifest(old), manifest(folder)
    assert list(now) == list(earlier) and now["settings"] == earlier["settings"]
    assert now["classes"] == {"0": 3, "1": 3, "2": 3} and now["complete"]


def test_without_a_writable_parent_there_is_no_sheet(tiny_pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dataset.generated_folder.os.access", lambda path, mode: path != tmp_path)
    folder = tmp_path / "mounted"
    synthesize(tiny_pipeline, folder, "--data_amount", 1, "--num-sampling-steps", 2)
    assert manifest(folder)["complete"] and not sheet_of(folder).exists()
    assert "contact_sheet" not in capsys.readouterr().out


def test_damaged_and_missing_images_are_generated_again(tiny_pipeline, reference, copy):
    declare_unfinished(copy)
    damaged = copy / "0001/00003.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    flipped = bytearray((copy / "0000/00000.png").read_bytes())
    flipped[-14] ^= 1  # in the checksum of the pixels: decoding alone would not notice
    (copy / "0000/00000.png").write_bytes(flipped)
    Image.new("RGB", (8, 8)).save(copy / "0002/00001.png")  # of another size
    (copy / "0002/00000.png").unlink()
    for left in ("0002/00007.png.123.part", "manifest.json.123.part"):  # by a killed run
        (copy / left).write_bytes(b"half")
    times = {file: file.stat().st_mtime_ns for file in copy.glob("*/*.png")}
    assert synthesize(tiny_pipeline, copy, *REFERENCE)["made"] == 4
    assert (
        sum(file.stat().st_mtime_ns != before for file, before in times.items()) == 3
    )  # whole files are left alone
    assert not list(copy.rglob("*.part"))
    assert contents(copy) == contents(reference) and manifest(copy)["complete"]
    (copy / "0002/00005.png").unlink()  # from a set that was complete
    assert synthesize(tiny_pipeline, copy, *REFERENCE)["made"] == 1
    assert contents(copy) == contents(reference)


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_full_disk_leaves_nothing_half_written(
    tiny_pipeline, reference, tmp_path, monkeypatch, capsys, moment
):
    folder, written = tmp_path / "set", []

    class FullDisk:
        """A file that takes the first bytes and then has no room."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path):
        written.append(path)
        return ".png" in Path(path).name and len(written) > 9

    def opened(path, mode, **encoding):
        file = open(path, mode, **encoding)  # noqa: SIM115
        return FullDisk(file) if full(path) else file

    def replaced(part, path):
        if full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        shutil.move(part, path)

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(helper.files, "open", opened, raising=False)
        else:
            patch.setattr("helper.files.os.replace", replaced)
        argv = ["--model", str(tiny_pipeline), "--save_dir", str(folder), *REFERENCE]
        assert run_script(synthesize_dit.main, argv) == 2
    message = capsys.readouterr().err.split("\n")[-2]
    assert message.startswith(f"error: cannot write {folder}") and "the disk is full" in message
    assert not list(folder.rglob("*.part"))
    assert (
        0 < len(contents(folder)) < 24 and contents(folder).items() <= contents(reference).items()
    )
    assert not manifest(folder)["complete"]
    synthesize(tiny_pipeline, folder, *REFERENCE)
    assert contents(folder) == contents(reference) and manifest(folder)["complete"]


def test_jpeg_and_dpmsolver(tiny_pipeline, tmp_path):
    synthesize(
        tiny_pipeline,
        tmp_path / "set",
        "--data_amount",
        "5",
        "--format",
        "jpeg",
        "--sampler",
        "dpmsolver++",
        "--num-sampling-steps",
        "3",
        "--precision",
        "bf16",
        "--batch_size",
        "2",
    )
    files = sorted((tmp_path / "set").glob("*/*"))
    assert [file.name for file in files] == ["00000.jpg", "00001.jpg"] * 2 + ["00000.jpg"]
    with Image.open(files[0]) as image:
        assert image.format == "JPEG" and JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
    assert manifest(tmp_path / "set")["settings"]["precision"] == "bf16_blocks"


BF16 = ["--precision", "bf16", "--sampler", "ddim", "--num-sampling-steps", "3"]


def test_bf16_images_are_near_those_of_fp32(tiny_pipeline, tmp_path):
    flags = [*BF16[2:], "--data_amount", "6"]
    synthesize(tiny_pipeline, tmp_path / "fp32", *flags)
    synthesize(tiny_pipeline, tmp_path / "bf16", *flags, *BF16[:2])
    images = [
        np.stack([np.asarray(Image.open(file), int) for file in sorted(path.glob("*/*"))])
        for path in (tmp_path / "fp32", tmp_path / "bf16")
    ]
    difference = np.abs(images[0] - images[1])
    assert 0 < difference.mean() < 1


def test_older_bf16_folders_keep_autocast(tiny_pipeline, tmp_path, monkeypatch):
    """Their manifests say bf16: they grow as they began."""
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    flags = [*BF16, "--batch_size", "3"]
    with monkeypatch.context() as older:
        older.setattr(synthesize_dit, "BF16_BLOCKS", "bf16")
        older.setattr(synthesize_dit, "use_bf16_blocks", lambda denoiser: None)
        synthesize(tiny_pipeline, whole, *flags, "--data_amount", "3")
        synthesize(tiny_pipeline, grown, *flags, "--data_amount", "3")
        synthesize(tiny_pipeline, whole, *flags, "--data_amount", "9")
    synthesize(tiny_pipeline, grown, *flags, "--data_amount", "9")
    assert manifest(grown)["settings"]["precision"] == "bf16"
    synthesize(tiny_pipeline, tmp_path / "new", *flags, "--data_amount", "9")
    assert contents(whole) == contents(grown) != contents(tmp_path / "new")


def test_folder_keeps_its_batch_size_and_compilation(tiny_pipeline, tmp_path, monkeypatch):
    compiled = []

    def compile_nothing(network, **_):
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile_nothing)
    folder = tmp_path / "set"
    synthesize(tiny_pipeline, folder, *BF16, "--data_amount", "3", "--batch_size", "5", "--compile")
    for amount, calls in ((4, 2), (5, 3)):
        synthesize(tiny_pipeline, folder, *BF16, "--data_amount", str(amount))
        state = manifest(folder)
        assert (state["batch_size"], state["compiled"], len(compiled)) == (5, True, calls)
    synthesize(tiny_pipeline, folder, *BF16, "--data_amount", "6", "--no_compile")
    assert len(compiled) == 3 and "compiled" not in manifest(folder)
    # A new folder on a CPU is not compiled
    synthesize(tiny_pipeline, tmp_path / "new", *BF16, "--data_amount", "3")
    state = manifest(tmp_path / "new")
    assert state["batch_size"] == 32 and "compiled" not in state and len(compiled) == 3


def test_compiling_without_a_compiler(tiny_pipeline, tmp_path, monkeypatch, capsys):
    """The flag gets a message; a network is not compiled unasked."""
    assert has_compiler()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not has_compiler()

    class BackendCompilerFailed(RuntimeError):
        """As torch's, whose arguments depend on its version."""

    def fail(network, **_):
        raise BackendCompilerFailed("backend='inductor' raised:\nRuntimeError: no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    argv = ["--model", str(tiny_pipeline), *BF16, "--save_dir", str(tmp_path / "set"), "--compile"]
    assert run_script(synthesize_dit.main, [*argv, "--data_amount", "3", "--device", "cpu"]) == 2
    assert re.search(r"torch.compile failed .*no compiler.*--no_compile", capsys.readouterr().err)


def test_grey_model(tiny_pipeline, tmp_path):
    model = Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))
    info = json.loads((model / "generator.json").read_text())
    (model / "generator.json").write_text(json.dumps(info | {"grey": True, "cfg_channels": 2}))
    synthesize(
        model,
        tmp_path / "set",
        "--images_per_class",
        "1",
        "--num-sampling-steps",
        "2",
        "--batch_size",
        "3",
    )
    modes = {Image.open(file).mode for file in (tmp_path / "set").glob("*/*")}
    assert modes == {"L"} and manifest(tmp_path / "set")["settings"]["cfg_channels"] == 2


def subprocess_command(pipeline, folder, steps="6", launcher=()):
    flags = [*REFERENCE, "--num-sampling-steps", steps]
    return [
        sys.executable,
        *launcher,
        str(ROOT / "synthesize_dit.py"),
        "--model",
        str(pipeline),
        "--save_dir",
        str(folder),
        *flags,
    ]


def test_two_processes_make_the_same_bytes(tiny_pipeline, reference, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = subprocess_command(tiny_pipeline, tmp_path / "set", launcher=launcher)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "set") == contents(reference)
    assert manifest(tmp_path / "set")["complete"] and "2 × cpu" in done.stdout
    assert done.stdout.count("288 network evaluations") == 1


FLAT = ["--batch_size", "10", "--num-sampling-steps", "2", "--device", "cpu"]


def flat_contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("class_*.png"))}


def flat_names(classes, seeds):
    return {f"class_{c}_seed_{s}_num_{n}.png" for c in classes for s in seeds for n in range(10)}


def test_flat_names_hold_the_same_images(tiny_pipeline, tmp_path):
    """Image n of seed s is the class's image 10 s + n, to the byte where the batches are the
    same.
    """
    synthesize(tiny_pipeline, tmp_path / "classes", *FLAT, "--images_per_class", "30")
    result = synthesize(
        tiny_pipeline, tmp_path / "flat", *FLAT, "--start_seed", "1", "--end_seed", "3"
    )
    assert (result["made"], result["images"]) == (60, 60)
    assert flat_contents(tmp_path / "flat") == {
        f"class_{label}_seed_{index // 10}_num_{index % 10}.png": (
            tmp_path / f"classes/{label:04d}/{index:05d}.png"
        ).read_bytes()
        for label in range(3)
        for index in range(10, 30)
    }
    state = manifest(tmp_path / "flat")
    assert state["complete"] and state["images"] == 60 and sheet_of(tmp_path / "flat").exists()
    assert state["ranges"] == [
        {"start_id": 0, "end_id": 3, "start_seed": 1, "end_seed": 3, "complete": True}
    ]
    assert state["settings"] == manifest(tmp_path / "classes")["settings"]


def test_flat_folder_grows_by_classes_and_seeds(tiny_pipeline, tmp_path, capsys):
    folder = tmp_path / "set"
    synthesize(tiny_pipeline, folder, *FLAT, "--start_id", "1", "--end_id", "2", "--end_seed", "1")
    before, times = (
        flat_contents(folder),
        {file: file.stat().st_mtime_ns for file in folder.glob("class_*")},
    )
    assert set(before) == flat_names([1], [0])
    assert (
        synthesize(tiny_pipeline, folder, *FLAT, "--start_id", "1", "--end_seed", "2")["made"] == 30
    )
    assert set(flat_contents(folder)) == flat_names([1, 2], [0, 1])
    assert {file: file.stat().st_mtime_ns for file in times} == times
    state = manifest(folder)  # the smaller range is part of the larger one
    assert state["images"] == 40 and [one["end_seed"] for one in state["ranges"]] == [2]
    for part in (
        ["--start_id", "1", "--end_seed", "2"],
        ["--start_id", "2", "--start_seed", "1", "--end_seed", "2"],
    ):
        assert synthesize(tiny_pipeline, folder, *FLAT, *part)["made"] == 0
        assert "is complete: 40 images of 2 classes" in capsys.readouterr().out
    taken = folder / "class_2_seed_1_num_3.png"
    pixels = taken.read_bytes()
    taken.unlink()
    other_class = ["--end_id", "1", "--end_seed", "1"]
    assert synthesize(tiny_pipeline, folder, *FLAT, *other_class)["made"] == 10
    assert (
        synthesize(tiny_pipeline, folder, *FLAT, "--start_id", "1", "--end_seed", "2")["made"] == 1
    )
    assert taken.read_bytes() == pixels and manifest(folder)["images"] == 50


def test_two_runs_fill_one_flat_folder(tiny_pipeline, tmp_path):
    """One run's beginning and end, and what it leaves when it is killed, do not touch another's
    range.
    """
    folder, ours = tmp_path / "set", ["--start_id", "0", "--end_id", "1", "--end_seed", "1"]
    theirs = ["--start_id", "1", "--end_id", "3", "--end_seed", "1"]
    synthesize(tiny_pipeline, folder, *FLAT, *ours)
    expected = flat_contents(folder)
    state = manifest(folder)
    state["ranges"][0]["complete"] = state["complete"] = False  # as when killed while it wrote
    (folder / "manifest.json").write_text(json.dumps(state))
    (folder / "class_0_seed_0_num_4.png").write_bytes(b"half")
    part = folder / "class_0_seed_0_num_5.png.77.part"
    (folder / "class_0_seed_0_num_5.png").rename(part)
    synthesize(tiny_pipeline, folder, *FLAT, *theirs)
    assert part.exists() and (folder / "class_0_seed_0_num_4.png").read_bytes() == b"half"
    assert [one["complete"] for one in manifest(folder)["ranges"]] == [False, True]
    assert not manifest(folder)["complete"]
    assert synthesize(tiny_pipeline, folder, *FLAT, *ours)["made"] == 2
    assert manifest(folder)["complete"] and manifest(folder)["images"] == 30 and not part.exists()
    assert expected.items() <= flat_contents(folder).items()
    assert set(flat_contents(folder)) == flat_names(range(3), [0])


def test_flat_ranges_in_several_processes_at_once(tmp_path):
    """Many processes that write their ranges into one manifest lose none of them."""
    code = """
import sys
from pathlib import Path
from dataset.folder_layouts import FlatFiles
from dataset.requested_images import SeedRange
folder, label = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(exist_ok=True)
for seed in range(12):
    settings = {"format": "png", "image_size": 16, "grey": False}
    layout = FlatFiles(folder, settings, SeedRange(label, label + 1, seed, seed + 1))
    layout.write_manifest({}, complete=True)
"""
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "set"), str(label)], cwd=ROOT)
        for label in range(4)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0] * 4
    state = manifest(tmp_path / "set")
    assert state["complete"] and state["images"] == 4 * 12 * 10
    assert {(one["start_id"], one["start_seed"]) for one in state["ranges"]} == {
        (label, seed) for label in range(4) for seed in range(12)
    }


@pytest.mark.parametrize(
    ("flags", "expected", "images"),
    [
        (["--start_id", "7"], SeedRange(7, 1000, 0, 20), 198_600),
        (["--end_id=3"], SeedRange(0, 3, 0, 20), 600),
        (["--start_seed", "5"], SeedRange(0, 1000, 5, 20), 150_000),
        (["--end-seed", "2", "--start_id", "0"], SeedRange(0, 1000, 0, 2), 20_000),
        (["--classes", "3,1", "--data_amount", "5"], {1: 3, 3: 2}, 5),
        (["--data_amount", "2"], {0: 1, 1: 1}, 2),
    ],
)
def test_request_of_the_flags(flags, expected, images):
    request = request_of(synthesize_dit.parse_option(flags), 1000, "DiT-XL/2")
    assert request == expected and number_of_images(request) == images


def test_class_list_chooses_imagenet_classes(tmp_path):
    (tmp_path / "list.txt").write_text(
        "n01443537 goldfish\n# a remark\nn01440764 tench\nn15075141\n"
    )
    flags = ["--class-list", str(tmp_path / "list.txt"), "--data_amount", "4"]
    # The first class of the list has one more, like the student's data; folders are named by the
    # generator's classes
    expected = {1: 2, 0: 1, 999: 1}
    assert request_of(synthesize_dit.parse_option(flags), 1000, "DiT-XL/2") == expected


def test_cost_and_remaining_time_are_printed(tiny_pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("helper.cost.Pace.__init__.__defaults__", (2, 0.0))
    synthesize(tiny_pipeline, tmp_path / "set", *REFERENCE)
    lines = capsys.readouterr().out.splitlines()
    assert "24 of 24 images" in lines[0] and "1 × cpu" in lines[0]
    assert "288 network evaluations" in lines[1] and str(tmp_path / "set") in lines[2]
    # After three batches of 5
    assert sum("the remaining 9 take about" in line for line in lines) == 1


def test_killed_runs_end_in_the_same_bytes(tiny_pipeline, tmp_path):
    folder, steps = tmp_path / "set", "80"  # long enough to be caught between two batches
    for images in (1, 11):
        process = subprocess.Popen(
            subprocess_command(tiny_pipeline, folder, steps),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        while len(list(folder.glob("*/*.png"))) < images and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert images <= len(list(folder.glob("*/*.png"))) < 24 and not manifest(folder)["complete"]
    synthesize(tiny_pipeline, folder, *REFERENCE, "--num-sampling-steps", steps)
    synthesize(tiny_pipeline, tmp_path / "uninterrupted", *REFERENCE, "--num-sampling-steps", steps)
    assert contents(folder) == contents(tmp_path / "uninterrupted")


def _truncate_weights(model):
    file = model / "transformer/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _widen(model):
    config = json.loads((model / "transformer/config.json").read_text())
    (model / "transformer/config.json").write_text(json.dumps(config | {"num_layers": 3}))


def _make_set(model):
    synthesize(
        model,
        model.parent / "set",
        "--images_per_class",
        "1",
        "--num-sampling-steps",
        "2",
        "--cfg-scale",
        "3",
    )


def _stray_image(model):
    (model.parent / "set/0000").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(model.parent / "set/0000/00000.png")


def _make_flat(model):
    synthesize(model, model.parent / "set", *FLAT, "--end_id", "1", "--end_seed", "1")


def _make_classes(model):
    synthesize(model, model.parent / "set", *FLAT, "--images_per_class", "1")


def _damage_manifest(model):
    (model.parent / "set").mkdir()
    (model.parent / "set/manifest.json").write_text('{"complete": tr')


def _write_other_manifest(model):
    (model.parent / "set").mkdir()
    (model.parent / "set/manifest.json").write_text("{}")


# Change of a copy of the model at MODEL, flags besides valid ones, and parts of the message.
WRONG = {
    "no such model": (
        None,
        ["--model", "no/such/model"],
        "--model no/such/model",
    ),
    "hub offline": (
        None,
        ["--model", "nobody/nothing"],
        "--model nobody/nothing … download",
    ),
    "no pipeline": (
        lambda m: shutil.rmtree(m / "vae"),
        [],
        "MODEL … vae/config.json",
    ),
    "no weights": (
        lambda m: (m / "vae/diffusion_pytorch_model.safetensors").unlink(),
        [],
        "MODEL/vae",
    ),
    "truncated weights": (
        _truncate_weights,
        [],
        "MODEL/transformer … config.json",
    ),
    "other architecture": (
        _widen,
        [],
        "MODEL/transformer … transformer_blocks.2.",
    ),
    "class out of range": (None, ["--classes", "0-3"], "--classes 3 … MODEL has classes 0 to 2"),
    "classes unreadable": (None, ["--classes", "0-x"], "--classes"),
    "no amount": (None, ["--images_per_class"], "--images_per_class: expected one argument"),
    "two amounts": (None, ["--data_amount", "9"], "not allowed with argument"),
    "negative seed": (None, ["--seed=-1"], "--seed … -1"),
    "guidance not a number": (
        None,
        ["--cfg-scale", "nan"],
        "--cfg-scale … nan",
    ),
    "too many steps": (
        None,
        ["--num-sampling-steps", "1001"],
        "--num-sampling-steps 1001 … 1000",
    ),
    "too many channels": (
        None,
        ["--cfg-channels", "5"],
        "--cfg-channels 5 … MODEL/transformer has 4",
    ),
    "unknown sampler": (None, ["--sampler", "euler"], "invalid choice: 'euler'"),
    "unknown device": (None, ["--device", "abacus"], "--device abacus"),
    "other settings": (_make_set, [], "SET … cfg_scale 3.0, not 2.0"),
    "other manifest": (_write_other_manifest, [], "SET/manifest.json … --save_dir"),
    "stray images": (_stray_image, [], "SET … no manifest.json … --verify"),
    "damaged manifest": (_damage_manifest, [], "SET/manifest.json … --verify"),
    "flat folder": (_make_flat, [], "SET … flat files … --start_seed"),
    "class folders": (
        _make_classes,
        ["FLAT", "--end_seed", "1"],
        "SET … class folders … --start_seed",
    ),
    "both kinds": (
        None,
        ["--start_seed", "1"],
        "--start_seed … --images_per_class",
    ),
    "no class": (
        None,
        ["FLAT", "--start_id", "2", "--end_id", "2"],
        "--start_id 2 … --end_id 2",
    ),
    "no seed": (
        None,
        ["FLAT", "--start_seed", "20"],
        "--start_seed 20 … --end_seed 20",
    ),
    "last class": (None, ["FLAT", "--end_id", "4"], "--end_id 4 … MODEL has classes 0 to 2"),
    "nothing asked": (
        None,
        ["FLAT"],
        "--images_per_class … --data_amount … --start_seed",
    ),
    "class list of others": (
        None,
        ["--class-list", "x"],
        "--class-list … ImageNet-1K … MODEL has 3",
    ),
    "classes twice": (None, ["--class-list", "x", "--classes", "1"], "not allowed with argument"),
    "checkpoint": (
        None,
        ["--ckpt", "x.pt"],
        "--ckpt … --model MODEL",
    ),
    "another size": (None, ["--image-size", "256"], "--image-size 256 … MODEL/transformer … 16"),
    "other class count": (None, ["--num-classes", "4"], "--num-classes 4 … MODEL/transformer … 3"),
    "folder is a file": (
        lambda m: (m.parent / "set").write_text(""),
        [],
        "SET is a file",
    ),
    "folder under a file": (
        None,
        ["--save_dir", "MODEL/generator.json/set"],
        "a part of this path is a file",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_message(tiny_pipeline, tmp_path, capsys, name):
    prepare, flags, expected = WRONG[name]
    model, folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "tiny")), tmp_path / "set"
    if prepare:
        prepare(model)
    capsys.readouterr()
    flags = [flag.replace("MODEL", str(model)) for flag in flags]
    right = ["--model", str(model), "--save_dir", str(folder), "--num-sampling-steps", "2"]
    # FLAT: flags of flat files instead of one image per class
    flags = flags[1:] if flags[:1] == ["FLAT"] else ["--images_per_class", "1", *flags]
    assert run_script(synthesize_dit.main, right + flags) == 2
    _assert_message(capsys, expected.replace("MODEL", str(model)).replace("SET", str(folder)))


def test_no_permission_and_no_room(tiny_pipeline, tmp_path, capsys, monkeypatch):
    argv = [
        "--model",
        str(tiny_pipeline),
        "--save_dir",
        str(tmp_path / "set"),
        "--images_per_class",
        "1",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(
            "helper.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10)
        )
        assert run_script(synthesize_dit.main, argv) == 2
        _assert_message(capsys, "GiB … fewer images")

    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("helper.files.Path.mkdir", denied)
    assert run_script(synthesize_dit.main, argv) == 2
    _assert_message(capsys, f"cannot write {tmp_path / 'set'} … no permission")


def _assert_message(capsys, expected):
    message = capsys.readouterr().err
    assert all(part in message for part in expected.split(" … ")), message
    assert message.startswith("error: ") and message.count("\n") <= 2 and "Traceback" not in message


# Checking and repairing a folder


@pytest.mark.parametrize("damage", ["cut file", "no manifest", "cut manifest", "empty manifest"])
def test_verify_repairs_a_complete_folder(tiny_pipeline, reference, copy, damage):
    cut_file = copy / "0001/00003.png"
    cut_file.write_bytes(cut_file.read_bytes()[:-40])
    manifest_file = copy / "manifest.json"
    if damage == "no manifest":
        manifest_file.unlink()
    elif damage != "cut file":
        manifest_file.write_text(manifest_file.read_text()[: 100 if "cut" in damage else 0])
    # The contact sheet is missing, too; drawing it finds a damaged image.
    with pytest.raises(UserError, match="--verify"):
        synthesize(tiny_pipeline, copy, *REFERENCE)
    assert synthesize(tiny_pipeline, copy, *REFERENCE, "--verify")["made"] == 1
    assert contents(copy) == contents(reference)
    assert (
        manifest(copy)["complete"] and manifest(copy)["classes"] == manifest(reference)["classes"]
    )


def test_verify_of_one_range_of_a_flat_folder(tiny_pipeline, tmp_path):
    """The other ranges stay in the manifest, in the number of images and on the contact sheet."""
    folder, ours = tmp_path / "set", ["--end_id", "1", "--end_seed", "1"]
    synthesize(tiny_pipeline, folder, *FLAT, "--start_id", "1", "--end_seed", "1")
    synthesize(tiny_pipeline, folder, *FLAT, *ours)
    images, state, sheet = flat_contents(folder), manifest(folder), sheet_of(folder).read_bytes()
    cut_file = folder / "class_0_seed_0_num_4.png"
    cut_file.write_bytes(cut_file.read_bytes()[:-40])
    result = synthesize(tiny_pipeline, folder, *FLAT, *ours, "--verify")
    assert (result["made"], result["images"]) == (1, 30)
    assert flat_contents(folder) == images and sheet_of(folder).read_bytes() == sheet
    assert manifest(folder)["ranges"] == state["ranges"]


def test_a_missing_contact_sheet_is_drawn_again(tiny_pipeline, copy):
    sheet = copy.parent / f"{copy.name}_contact_sheet.png"
    assert not sheet.exists()
    assert synthesize(tiny_pipeline, copy, *REFERENCE)["made"] == 0
    assert sheet.exists()


def test_images_that_are_not_finite_are_never_written(tiny_pipeline, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        synthesize(tiny_pipeline, tmp_path / "set", *REFERENCE, "--cfg-scale", "1e30")
    assert not list((tmp_path / "set").glob("*/*.png"))


def test_two_commands_do_not_fill_a_folder_at_once(tiny_pipeline, tmp_path, monkeypatch):
    """Each would call the set complete with its own classes only. Afterwards they can follow."""
    folder = tmp_path / "set"
    argv = ["--model", str(tiny_pipeline), "--cfg-scale", "1", "--num-sampling-steps", "2"]
    argv += ["--images_per_class", "1", "--save_dir", str(folder), "--device", "cpu", "--classes"]
    program = "import sys, synthesize_dit; sys.exit(synthesize_dit.run_script(synthesize_dit.main))"
    own = generated_folder.GeneratedFolder.write
    outcome = []

    def write(self, batch, pixels):
        if not outcome:
            part = folder / "0000/00000.png.1.part"
            part.parent.mkdir(exist_ok=True)
            part.touch()
            done = subprocess.run(
                [sys.executable, "-c", program, *argv, "1"],
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            outcome.append((done.returncode, done.stderr))
            assert part.exists()  # as if it were just being written
            part.unlink()
        own(self, batch, pixels)

    monkeypatch.setattr(generated_folder.GeneratedFolder, "write", write)
    synthesize_dit.main([*argv, "0"])
    ((code, message),) = outcome
    assert code == 2 and str(folder) in message and "in use by process" in message
    assert not (folder / ".lock").exists()
    synthesize_dit.main([*argv, "1"])
    assert sorted(path.name for path in folder.glob("0*")) == ["0000", "0001"]
