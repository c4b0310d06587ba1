"""Torch's optimizers and Transformers' schedules by their names; float16 with a scaled loss; what is no number ends an arm."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision

from lab import run as running
from lab.bounds import WORDS
from lab.config import Optim, Schedule, identity
from lab.costs import device_memory
from lab.errors import ConfigError, ModelError, TrainingError
from lab.evaluation import generation, scoring
from lab.store import runs
from lab.training import checkpoints, loop, loss_scaling, optimization, resuming
from lab.training.loss_scaling import LossScaling

pytestmark = pytest.mark.usefixtures("nominal_costs")

STEPS, EPOCH = 40, 10.0
OPTIMIZERS = WORDS["optim.optimizer"].legal


def factors(**values: Any) -> list[float]:
    """The factor at every step of a training."""
    made = optimization.factor(Optim(**values), STEPS, EPOCH)
    return [made(step) for step in range(STEPS)]


def test_steps_are_torchs_own() -> None:
    """2e-4 in the first pass, then 2e-5."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2e-4)
    torchs, rates = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 30], 0.1), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    ours = factors(schedule=Schedule.steps, milestones=[1.0, 3.0], warmup_fraction=0.0)
    assert [2e-4 * factor for factor in ours] == pytest.approx(rates) and rates[9:11] == pytest.approx([2e-4, 2e-5])


@pytest.mark.parametrize("schedule", Schedule, ids=lambda schedule: schedule.value)
def test_every_schedule_warms_up_and_stays_within_its_peak(schedule: Schedule) -> None:
    found = factors(schedule=schedule, warmup_fraction=0.1)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0] and all(0 <= one <= 1 for one in found)
    assert schedule in (Schedule.constant, Schedule.constant_with_warmup) or found[-1] < 1


def test_a_warm_up_of_so_many_steps_is_as_long_whatever_the_training(composer) -> None:
    found = factors(warmup_steps=5)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]) and factors(warmup_steps=0)[0] == 1.0
    assert identity(composer("optim.warmup_steps=5")) != identity(composer()) == identity(composer("optim.warmup_steps=null"))
    with pytest.raises(ConfigError, match="optim.warmup_steps=5, optim.warmup_fraction=0.1: both say how long the warm-up is"):
        composer("optim.warmup_steps=5", "optim.warmup_fraction=0.1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": Schedule.polynomial, "schedule_kwargs": {"powr": 2.0}}, r"schedule_kwargs\.powr: .* Legal: lr_end, power"),
        ({"schedule": Schedule.polynomial, "schedule_kwargs": {"lr_end": 1.0}}, "must be smaller than"),
        ({"schedule_kwargs": {"num_cycles": 2}}, "optim.schedule=cosine takes none"),
        ({"optimizer": "SGD", "optimizer_kwargs": {"eps": 1e-9}}, "optimizer=SGD takes no such argument. Legal: momentum"),
        ({"optimizer": "SGD", "betas": [0.8, 0.9]}, "optim.optimizer=SGD has none"),
    ],
)
def test_what_is_not_taken_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        optimization.check(Optim(**values))


def test_keys_of_steps_are_refused_beside_another_schedule(small) -> None:
    with pytest.raises(ConfigError, match="optim.gamma=0.5: optim.schedule=cosine does not read it"):
        small("optim.gamma=0.5")
    with pytest.raises(ConfigError, match="LBFGS: it asks for several forward passes a step"):
        small("optim.optimizer=LBFGS")
    assert identity(small("optim.optimizer=AdamW", "optim.milestones=[1.0]")) == identity(small()) != identity(small("optim.optimizer=SGD"))


class Module(L.LightningModule):
    """A matrix and a vector."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(128, width)

    def take(self, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
        """Take steps; the weights afterwards."""
        for step in steps:
            x = torch.randn(4, 128, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            self.layer(x).pow(2).sum().backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in self.parameters()]


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", [*OPTIMIZERS, "SGD with momentum"])
def test_every_optimizer_goes_on_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    kwargs = {"momentum": 0.9} if " " in name else {}
    optim = Optim(optimizer=name.partition(" ")[0], optimizer_kwargs=kwargs, weight_decay=0.01)

    def begin() -> tuple[Module, torch.optim.Optimizer, Any]:
        module = Module()
        optimizer = optimization.optimizer([{"params": list(module.parameters()), "lr": 0.01}], optim)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, optimization.factor(optim, 8, 8.0))
        trainer = SimpleNamespace(optimizers=[optimizer], callback_metrics={}, global_step=3, precision_plugin=Precision())
        trainer.lr_scheduler_configs = [SimpleNamespace(scheduler=schedule)]
        return module, optimizer, trainer

    module, optimizer, trainer = begin()
    module.take(optimizer, range(3))
    path = checkpoints.save(tmp_path, resuming.capture_state(trainer, module), keep=1)
    whole = module.take(optimizer, range(3, 6))
    again, fresh, _ = begin()
    taken = checkpoints.read(path)
    resuming.put_weights(again, taken)
    resuming.restore_optimizer(fresh, taken)
    assert all(map(torch.equal, again.take(fresh, range(3, 6)), whole))


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plan_counts_the_bytes_that_an_optimizer_holds(name: str) -> None:
    """Within 2 % for a matrix; 8-bit ones also hold a map of 256 numbers, and what is in 32 bits is told."""
    module, optim = Module(width=512), Optim(optimizer=name)
    optimizer = optimization.optimizer([{"params": [module.layer.weight], "lr": 0.01}], optim)
    module.take(optimizer, range(1))
    (state,) = (resuming.flat(one) for one in optimizer.state_dict()["state"].values()) if optimizer.state else ({},)
    held = sum(value.nbytes for key, value in state.items() if isinstance(value, torch.Tensor) and not key.startswith("qmap"))
    number = module.layer.weight.numel()
    assert held / number == pytest.approx(device_memory.state_bytes(optim), rel=0.02, abs=0.05)
    if name in optimization.EIGHT_BITS:
        assert optimization.in_8_bits(optimizer) == (number, 0)
        state["state1"], optimizer.state[module.layer.weight]["state1"] = None, torch.zeros(1)
        with pytest.raises(TrainingError, match=r"holds the state of a tensor of 65,536 numbers as torch.float32, not in 8 bits"):
            optimization.in_8_bits(optimizer)


def test_an_optimizer_that_pages_is_refused_without_a_gpu(small) -> None:
    with pytest.raises(ConfigError, match="PagedAdamW8bit: it pages its state out of a GPU's memory, and this training runs on a CPU"):
        running.check(small("optim.optimizer=PagedAdamW8bit"))


def test_a_step_that_overflows_is_left_out_and_counted() -> None:
    """By torch's GradScaler; what it has found goes on after a resume."""
    module, scaling = Module(), LossScaling("cpu")
    trainer = SimpleNamespace(gradient_clip_val=1.0, gradient_clip_algorithm=None)
    trainer.callbacks, trainer.lightning_module = [], module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    before = module.layer.weight.detach().clone()
    scale = scaling.scaler.get_scale()
    scaling._after_closure = lambda *_: None  # type: ignore[method-assign]  # Lightning's hooks and clipping need a trainer
    for overflow in (True, False):

        def closure(overflow: bool = overflow) -> torch.Tensor:
            optimizer.zero_grad()
            loss = module.layer(torch.ones(1, 128)).sum() * (1e38 if overflow else 1.0)
            scaling.scaler.scale(loss).backward()
            return loss

        scaling.optimizer_step(optimizer, model=module, closure=closure)
        assert torch.equal(module.layer.weight, before) is overflow
    assert scaling.left_out == 1 and scaling.scaler.get_scale() == scale / 2
    again = LossScaling("cpu")
    again.load_state_dict(scaling.state_dict())
    assert again.state_dict() == scaling.state_dict()


def test_steps_that_are_all_left_out_train_nothing_and_are_no_best(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scaling, "START", 2.0**60)
    x = small("model.dtype=float16", "trainer.max_steps=2", "trainer.val_every=1", "trainer.restore_best=true")
    with pytest.raises(TrainingError, match="all 2 optimizer steps were left out, because their gradients overflowed float16"):
        running.run_alone(x, "test", 0.0)
    assert not list(Path(x.tracking.runs_dir).rglob(checkpoints.BEST))


def test_an_arm_over_a_float16_base_trains_with_a_scaled_loss_and_resumes(small, tmp_path: Path) -> None:
    """The same command after a stop gives what one that was never stopped gives, the factor included."""
    from lab.artifacts import adapter
    from lab.run.assembly import attached
    from lab.training.checkpoints import Paused

    x = small("model.dtype=float16", "trainer.max_steps=4", "optim.lr=1e-3", "optim.optimizer=SGD", "optim.optimizer_kwargs.momentum=0.9")
    record = running.run_alone(x, "test", 0.0)
    assert record.status == runs.FINISHED and record.metrics["train/steps_left_out"] == 0
    folder = runs.folder(tmp_path / "runs", identity(x))
    whole = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    prepared = running.prepare(x)
    (tmp_path / "paused").mkdir()
    with attached(x, prepared.vlm) as vlm:
        for pause in (2, None):
            try:
                loop.train(x, vlm, prepared.encoded(x), tmp_path / "paused", 0.0, pause_at=pause)
            except Paused:
                assert pause == 2
        adapter.save(vlm, tmp_path / "resumed")
    assert (tmp_path / "resumed" / "adapter_model.safetensors").read_bytes() == whole


def test_what_is_no_number_is_neither_scored_nor_read(small) -> None:
    """NaN logits decode as token 0, which is "!" in many vocabularies."""
    x = small("lora=none", "trainer.max_steps=0")
    prepared = running.prepare(x)
    vlm, examples = prepared.vlm, prepared.encoded(x)["dev"]
    vlm.base_model.model.language_model.norm.weight.data[0] = torch.inf
    with pytest.raises(TrainingError, match="the logits of 8 of 8 samples are not finite .first: sample "):
        scoring.score(vlm, examples, examples.encoder.readout, x.evaluation, "dev")
    with pytest.raises(TrainingError, match="the probabilities of 1 of 1 samples are not finite"), torch.inference_mode():
        generation.write(vlm, examples.encoder.collate([examples.encoder.example(examples.split[0])], with_answers=False))


def test_trained_tensors_that_are_no_numbers_end_an_arm() -> None:
    module = Module()
    resuming.require_finite(module, 3)
    module.layer.bias.data[1] = torch.nan
    with pytest.raises(TrainingError, match="1 trained tensors are not finite after optimizer step 3 .first: layer.bias"):
        resuming.require_finite(module, 3)


def test_a_model_over_several_gpus_is_refused_where_it_cannot_be(small) -> None:
    with pytest.raises(ConfigError, match="model.device_map=auto, trainer.devices=2: .* Give trainer.devices=1"):
        small("model.device_map=auto", "trainer.devices=2")
    x = small("model.device_map=auto")
    assert identity(x) == identity(small())
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="PyTorch sees none here. Give model.device_map=null"):
            running.check(x)
    with pytest.raises(ModelError, match="there is no such family"):
        running.check(dataclasses.replace(x, model=dataclasses.replace(x.model, family="nothing")))
