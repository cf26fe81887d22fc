from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_diffseg.core.errors import CaseError, DiffsegError, ParameterError
from napari_diffseg.core.segnet import SegNetConfig
from tests.models import tiny_network
from tests.training.tiny import TRAINING, VALIDATION, TinyData, tiny_config
from training.baseline_config import BaselineConfig
from training.config import load_config
from training.data import SliceCache
from training.loop import StepResult, Trainer
from training.processes import ONE_PROCESS, Processes, join_processes
from training.run_setup import _check_alike, _check_divisible
from training.shares import Share
from training.signals import StopRequest
from training.state import STATE_NAME, read_record
from training.train import main
from training.validate import Validator

pytest.importorskip("accelerate")

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[2]
# Without the seconds that TensorBoard takes to be imported.
SCRIPT = (
    "import sys; sys.modules['torch.utils.tensorboard'] = None; "
    "from training.train import main; sys.exit(main())\n"
)
ENDLESS = (
    "run.total_steps=1000",
    "run.log_every=1",
    "run.checkpoint_every=5",
    "run.validate_every=4",
    'optimiser.schedule="constant"',
)


# --- two threads in place of two processes --------------------------------------------------------


class Together(Processes):
    """One of several threads that hand each other what processes would."""

    def __init__(self, share: Share, barrier: threading.Barrier, table: dict[int, object]) -> None:
        super().__init__()
        self.share, self.is_main = share, share.index == 0
        self._barrier, self._table = barrier, table

    def gather(self, item):
        self._table[self.share.index] = item
        self._barrier.wait(120)
        items = [self._table[index] for index in range(self.count)]
        self._barrier.wait(120)
        return items

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))


def run_together(task: Callable[[Processes], object], count: int = 2) -> list[object]:
    """Return what the task returned or raised in each of them."""
    barrier, table = threading.Barrier(count), {}

    def run(index: int) -> object:
        try:
            return task(Together(Share(index, count), barrier, table))
        except (Exception, SystemExit) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_error_of_one_is_an_error_of_all_and_told_once() -> None:
    def fail(processes: Processes) -> None:
        with processes.failing_together():
            if processes.share.index == 1:
                raise CaseError("its cache is damaged")

    main, other = run_together(fail)
    assert isinstance(main, DiffsegError)
    assert str(main) == "Process 2 of 2: its cache is damaged"
    assert isinstance(other, SystemExit)


def test_machines_with_different_data_or_folders_are_refused() -> None:
    def check(processes: Processes) -> None:
        seen = {"step": [7, None][processes.share.index], "data": "abc"}
        with processes.failing_together():
            _check_alike(processes.gather(seen))

    main, other = run_together(check)
    assert isinstance(main, ParameterError)
    assert "Process 2 of 2 has another step than the first" in str(main)
    assert isinstance(other, SystemExit)


@pytest.mark.parametrize("count", [2, 3])
def test_shared_validation_is_the_same_validation(tiny_data: TinyData, count: int) -> None:
    run = tiny_config("run.batch_size=6", "run.validation_slices=7").run
    validators = [
        Validator(tiny_data.cache, dict.fromkeys(VALIDATION, (-2, 2)), run) for _ in range(count)
    ]
    network = tiny_network(n_prior_channels=12).eval()
    whole = validators[0].validate(network, CPU)
    assert whole is not None
    assert 0 < whole[0].dice_ensemble < 1
    for shared in run_together(
        lambda p: validators[p.share.index].validate(network, CPU, processes=p), count
    ):
        assert isinstance(shared, tuple)
        assert shared[0].as_row(0) == pytest.approx(whole[0].as_row(0))
        for picture, expected in zip(shared[1], whole[1], strict=True):
            np.testing.assert_allclose(picture, expected, atol=1e-4)


def test_signal_to_one_process_stops_the_validation_of_all(tiny_data: TinyData) -> None:
    run = tiny_config("run.batch_size=2").run
    network = tiny_network(n_prior_channels=12).eval()
    context = dict.fromkeys(VALIDATION, (-2, 2))
    outcomes = run_together(
        lambda p: Validator(tiny_data.cache, context, run).validate(
            network, CPU, lambda: p.share.index == 1, p
        )
    )
    assert outcomes == [None, None]


# --- what is refused, and what is remembered ------------------------------------------------------


class Three(Processes):
    """The second of three processes."""

    def __init__(self) -> None:
        super().__init__()
        self.share, self.is_main = Share(1, 3), False


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("run.batch_size=4",), "a batch of 4 slices equally: .* multiple of 3"),
        (("run.batch_size=6", "run.accumulate=6"), "each in 6 parts: .* multiple of 18"),
    ],
)
def test_batch_that_cannot_be_shared_is_refused(settings: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        _check_divisible(tiny_config(*settings), Three(), CPU)
    _check_divisible(tiny_config(*settings), ONE_PROCESS, CPU)
    _check_divisible(tiny_config("run.batch_size=6", "run.accumulate=2"), Three(), CPU)


def test_batch_normalisation_is_not_divided() -> None:
    config = tiny_config("run.batch_size=6")
    segnet = replace(config, baseline=BaselineConfig(segnet=SegNetConfig((4, 8), (1, 1))))
    for normalised in (segnet, tiny_config("run.batch_size=6", 'model.prior_encoder.norm="batch"')):
        with pytest.raises(ParameterError, match="Batch normalisation is over the whole batch"):
            _check_divisible(normalised, Three(), CPU)
        _check_divisible(normalised, Three(), torch.device("cuda"))
    _check_divisible(config, Three(), CPU)


@pytest.mark.parametrize(
    ("device", "variable", "complaint"),
    [
        ("cpu:0", "ACCELERATE_NOTHING", "leave --device away"),
        ("cpu", "ACCELERATE_USE_FSDP", "configured for FSDP"),
    ],
)
def test_other_ways_to_train_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, variable: str, complaint: str
) -> None:
    assert join_processes(device) == (ONE_PROCESS, torch.device(device))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ParameterError, match=complaint):
        join_processes(device)


def test_signal_that_comes_twice_under_a_launcher_is_one() -> None:
    with StopRequest(patient=True) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # would be a KeyboardInterrupt
        assert stop()
        assert stop.signal == signal.SIGTERM


# --- two processes --------------------------------------------------------------------------------


def start_reference(data: TinyData, folder: Path, *overrides: str) -> Trainer:
    """Return the trainer of the same run in one process."""
    config = tiny_config(*overrides)
    context = dict.fromkeys(TRAINING, config.preprocessing.context_slices)
    cache = SliceCache(data.cache, TRAINING, config.data, context)
    folder.mkdir(exist_ok=True)
    return Trainer(config, folder, cache, CPU, {"data_hash": "of a test"})


def make_arguments(data: TinyData, folder: Path, *overrides: str) -> list[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    return data.arguments(folder, *settings, "--device", "cpu")


def make_environment(**variables: str) -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "src")]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)} | variables


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def wait_for_row(path: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and f"\n{step}," in path.read_text("utf-8"):
            return
        time.sleep(0.01)
    process.terminate()
    pytest.fail(f"the run did not get going: {process.communicate()[1]}")


def assert_same_curve(rows: list[dict[str, str]], results: list[StepResult], rel: float) -> None:
    assert [int(row["step"]) for row in rows] == [result.step for result in results]
    for name in ("loss", "gradient_norm"):
        expected = [getattr(result, name) for result in results]
        assert [float(row[name]) for row in rows] == pytest.approx(expected, rel=rel)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_two_processes_take_the_steps_of_one_and_stop_together(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    overrides = (*ENDLESS, "run.accumulate=2", "loss.own_estimates=0.5")
    run, script = tmp_path / "run", tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    launch = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split()]
    command += ["--main_process_port", "0", str(script)]
    command += make_arguments(tiny_data, run, *overrides)
    environment = make_environment(HF_HOME=str(tmp_path / "home"))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as launcher:
        wait_for_row(run / "train.csv", 9, launcher)
        launcher.terminate()
        _, said = launcher.communicate(timeout=300)
    assert launcher.returncode != 0
    assert "2 processes, each with 2 slices of a batch" in said
    record = read_record(run / STATE_NAME)
    n_steps = record["step"]
    assert f"Stopped at step {n_steps}" in said
    assert record["processes"] == 2

    # Each file is written once, and the curve is that of one process with the same batch.
    rows = read(run / "train.csv")
    reference = start_reference(tiny_data, tmp_path / "one", *overrides)
    assert_same_curve(rows, [reference.run_step() for _ in range(n_steps)], rel=2e-4)
    validated = [int(row["step"]) for row in read(run / "validation.csv")]
    due = list(range(4, n_steps + 1, 4))
    # The signal may have come during the last one, which is made up for later.
    assert validated in (due, due[:-1] if n_steps % 4 == 0 else due)
    assert len(list((run / "previews").iterdir())) == len(validated)
    (session,) = json.loads((run / "run.json").read_text("utf-8"))["sessions"]
    assert session["processes"] == 2
    assert load_config(run / "config.toml") == tiny_config(*overrides)
    assert not list(run.glob("*.tmp"))

    # One process goes on with it.
    alone = start_reference(tiny_data, run, *overrides)
    assert alone.resume()
    assert alone.resumed_processes == 2
    for name, weights in reference.network.state_dict().items():
        torch.testing.assert_close(alone.network.state_dict()[name], weights, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(alone.ema.weights[name], reference.ema.weights[name])
    for _ in range(3):
        assert alone.run_step().loss == pytest.approx(reference.run_step().loss, rel=2e-4)


def test_two_processes_go_on_with_a_run_of_one_and_none_survives_the_other(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    overrides = (*ENDLESS, "run.precision=float16", "run.validate_every=0")
    run = tmp_path / "run"
    begin = ("--set", "run.total_steps=6")
    assert main([*make_arguments(tiny_data, run, *overrides), *begin]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT, *make_arguments(tiny_data, run, *overrides)]
    both = [
        subprocess.Popen(
            [*command, "--allow-changes"],
            env=make_environment(
                MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="2", RANK=n, LOCAL_RANK=n
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in ("0", "1")
    ]
    first, second = both
    try:
        wait_for_row(run / "train.csv", 12, first)
        second.kill()
        _, said = first.communicate(timeout=300)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert first.returncode == 1
    assert "Going on at step 6" in said
    assert "The run was saved by 1 of them" in said
    assert "Another process has ended" in said
    assert "Traceback" not in said
    assert read_record(run / STATE_NAME)["step"] >= 10
    reference = start_reference(tiny_data, tmp_path / "one", *overrides)
    results = [reference.run_step() for _ in range(12)]
    assert_same_curve(read(run / "train.csv")[:12], results, rel=1e-2)
