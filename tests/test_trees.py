"""Questions about one picture that share a row are learned from as if each had its own: `trainer.layout=trees`."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import checkpoints
import pytest
import torch
from kills import require_cut_ends_as
from questions_of_pictures import samples
from torch.utils.flop_counter import FlopCounterMode

from lab import lora, model, vision_tokens
from lab import run as running
from lab.config import DType, Experiment, LoraDial, Optim
from lab.costs import planning
from lab.costs.counting import CostModel
from lab.costs.operations import ATTENTION
from lab.errors import ConfigError, ModelError
from lab.model import Vlm, trees
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.qwen_vl import QwenVL
from lab.model.trees import lay_out, row_of, trees_of
from lab.records import AnswerSpace, Batch, Rows, Tokens
from lab.run import assembly
from lab.training import capacity, tree_rows
from lab.training.fast.packing import pack_trees
from lab.training.learner import Learner

FAMILIES = (*checkpoints.FAMILIES, "llava")


def vlm_of(family: str, folder, attention: str = "sdpa", **dial) -> Vlm:
    """With adapters in all parts that have left their start."""
    made = model.load(replace(checkpoints.save(family, folder), attn_implementation=attention, **dial))
    lora.attach(made, LoraDial(name="all", r=4, where=["vision", "projector", "llm"]), seed=0)
    return checkpoints.moved(made)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return vlm_of("qwen2_vl", tmp_path_factory.mktemp("trees") / "qwen2_vl")


def encoded(vlm: Vlm, composer: Callable[..., Experiment]) -> tuple[Learner, Encoder, list[Example]]:
    encoder = Encoder(vlm, composer("data=easy_vqa").prompt, answers=AnswerSpace("text", ()))
    return Learner(vlm, Optim(), encoder.readout, steps=1), encoder, [encoder.example(one) for one in samples()]


def gradients(learner: Learner, batches: Sequence[Batch | Rows]) -> tuple[float, torch.Tensor]:
    """Loss of some forwards, their labels weighed alike, and the gradient of all that trains."""
    labels = sum(batch.targets for batch in batches)
    loss = torch.stack([learner.loss(batch) * (batch.targets / labels) for batch in batches]).sum()
    trained = [value for value in learner.vlm.model.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)  # LLaVA reads its tower's last block but one
    return loss.item(), torch.cat([each.flatten() for each in found if each is not None])


def gaps(learner: Learner, one: Sequence[Batch | Rows], other: Sequence[Batch | Rows]) -> tuple[float, float]:
    """By what share two ways to lay out the same samples differ in loss and gradient, L2."""
    (loss, gradient), (expected, wanted) = gradients(learner, one), gradients(learner, other)
    return abs(loss - expected) / abs(expected), ((gradient - wanted).norm() / wanted.norm()).item()


def hidden(learner: Learner, batch: Batch) -> torch.Tensor:
    """What comes into the last block in training's own call, and, where labels are predicted, what it says of them: [1, N, D + 1]."""
    found: list[torch.Tensor] = []
    last = [module for name, module in learner.vlm.base_model.named_modules() if re.fullmatch(learner.vlm.family.parts["llm"].block, name)][-1]
    handle = last.register_forward_pre_hook(lambda module, args, given: found.append(args[0]), with_kwargs=True)
    with torch.no_grad():
        logits = learner.fused.predict(batch)
    handle.remove()
    if learner.fused.blocks:
        row = torch.zeros(batch.prompt.ids.shape[1], found[0].shape[2])
        row[places(batch)] = found[0][0]
        found = [row[None]]
    said = torch.zeros_like(found[0][:, :, :1]).index_put((torch.tensor([0]), part(batch.target.places)), logits.sum(dim=-1)[0, :, None])
    return torch.cat([found[0], said], dim=-1)


def places(batch: Batch) -> torch.Tensor:
    """Where each token of the row that the step packs anew stood."""
    numbers = torch.arange(batch.prompt.ids.shape[1])[None]
    given = replace(batch, prompt=replace(batch.prompt, positions=numbers))
    return pack_trees(given)[0].prompt.positions[0]


def part(tensor: torch.Tensor | None) -> torch.Tensor:
    """What a batch of trees has."""
    assert tensor is not None
    return tensor


@pytest.mark.parametrize(("family", "attention"), [*itertools.product(FAMILIES, ("sdpa",)), ("qwen2_vl", "eager"), ("llava", "eager")])
def test_loss_and_gradients_are_those_of_rows(family: str, attention: str, composer, tmp_path) -> None:
    """Adapters in tower, projector and language model, ragged answers, several trees to a row; measured beside what rows differ by."""
    learner, encoder, examples = encoded(vlm_of(family, tmp_path, attention), composer)
    rows = encoder.collate(examples, with_answers=True, learned=True)
    alone = [encoder.collate([example], with_answers=True, learned=True) for example in examples]
    made = trees_of(encoder, examples)
    assert sorted(len(tree.examples) for tree in made) == [1, 2, 3, 4]
    one, several = lay_out(encoder, examples, None), lay_out(encoder, examples, max(tree.length for tree in made))
    assert len(one.batches) == 1 < len(several.batches) and one.targets == several.targets == rows.targets
    among = gaps(learner, [rows], alone)
    for laid in (one, several):
        gap = gaps(learner, [laid], alone)
        print(f"{family} {attention}: loss {gap[0]:.1e}, gradients {gap[1]:.1e}; rows among themselves {among[0]:.1e}, {among[1]:.1e}")
        assert gap[0] < 1e-6 and gap[1] < max(5 * among[1], 5e-6)
    tokens = sum(batch.prompt.ids.shape[1] for batch in several.batches)
    assert tokens == sum(tree.length for tree in made) < part(rows.prompt.mask).sum() / 1.3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_question_leaves_every_other_branch_equal_to_the_bit(family: str, composer, tmp_path) -> None:
    learner, encoder, examples = encoded(vlm_of(family, tmp_path), composer)
    made = trees_of(encoder, examples)
    batch = row_of(encoder, made)
    before, start = hidden(learner, batch), 0
    lengths = [length for tree in made for length in (tree.shared, *tree.branches) if length]
    for tree in made:
        start += tree.shared
        for own in tree.branches:
            ids = batch.prompt.ids.clone()
            at = start if tree.shared else start + own - 1  # the first token of a sample by itself begins all alike
            ids[0, at] = next(label for label in part(batch.target.labels)[0] if label != ids[0, at])
            moved = (hidden(learner, replace(batch, prompt=replace(batch.prompt, ids=ids))) != before).any(dim=-1)[0]
            assert [bool(each.any()) for each in moved.split(lengths)] == [first == start for first in itertools.accumulate([0, *lengths[:-1]])]
            start += own


def test_labels_are_pairs_of_the_position_that_predicts_and_its_target(qwen: Vlm, composer) -> None:
    """Every sample's own, none across a seam: what stands at the position is what stands before the target in the sample's own row."""
    _, encoder, examples = encoded(qwen, composer)
    batch = row_of(encoder, made := trees_of(encoder, examples))
    expected = []
    for own in (encoder.collate([example], with_answers=True, learned=True) for tree in made for example in tree.examples):
        end, labels = own.prompt.ids.shape[1], part(own.target.labels)[0].tolist()
        expected += list(zip(own.prompt.ids[0, end - len(labels) - 1 : end - 1].tolist(), labels, strict=True))
    predicting = batch.prompt.ids[0, batch.target.places].tolist()
    assert list(zip(predicting, part(batch.target.labels)[0].tolist(), strict=True)) == expected


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_samples_of_which_nothing_is_learned_are_read_and_move_no_other(family: str, composer, tmp_path) -> None:
    """One that shares its picture, and one by itself."""
    learner, encoder, examples = encoded(vlm_of(family, tmp_path), composer)
    batch, start = row_of(encoder, made := trees_of(encoder, examples)), 0
    places, learned = part(batch.target.places), torch.ones(batch.targets, dtype=torch.bool)
    for tree in made:
        left = range(start + tree.shared, start + tree.shared + tree.branches[0])
        if len(tree.examples) in (1, 4):
            learned &= (places < left.start) | (places >= left.stop)
        start += tree.length
    assert 0 < learned.sum() < len(learned)
    number = int(learned.sum())
    target = replace(batch.target, labels=part(batch.target.labels)[:, learned], rows=number, tokens=number, places=places[learned])
    whole, less = (learner.fused.predict(one) for one in (batch, replace(batch, target=target)))
    assert torch.allclose(less, whole[:, learned], atol=1e-4)


def causal(batch: Batch) -> Batch:
    """No mask of whose token reads whose."""
    return replace(batch, prompt=replace(batch.prompt, mask=torch.ones_like(part(batch.prompt.mask)).tril()))


def run_on(batch: Batch) -> Batch:
    """Positions that run on through branches."""
    steps = torch.arange(batch.prompt.ids.shape[1])
    positions = batch.prompt.positions.clone()
    texts = batch.prompt.types[0] == 0
    positions[:, 0, texts] = steps[texts]
    return replace(batch, prompt=replace(batch.prompt, positions=positions))


def counted(batch: Batch) -> Batch:
    """Branches that go on at the number of tokens before them, not behind the largest position."""
    own = part(batch.prompt.mask)[0, 0].sum(dim=1) - 1
    positions = torch.where(batch.prompt.types[0] == 0, own, batch.prompt.positions)
    return replace(batch, prompt=replace(batch.prompt, positions=positions))


@pytest.mark.parametrize("spoil", [causal, run_on, counted])
def test_each_silent_trap_is_seen_before_the_first_step(spoil, qwen: Vlm, composer, monkeypatch) -> None:
    """Without its cure loss and gradients differ, and nothing would say so; the look at the first samples does."""
    learner, encoder, examples = encoded(qwen, composer)
    rows, laid = encoder.collate(examples, with_answers=True, learned=True), lay_out(encoder, examples, None)
    assert max(gaps(learner, [laid], [rows])) < 1e-5
    if spoil is causal:
        learner.fused.blocks = []  # the packed step reads no mask
    assert min(gaps(learner, [Rows(tuple(map(spoil, laid.batches)))], [rows])) > 1e-3
    apart = [tree for example in examples for tree in trees_of(encoder, [example])]  # of forwards of one sample each
    assert all(tree_rows.held_to_rows(learner, encoder, some)["gap"] < 1e-4 for some in (trees_of(encoder, examples), apart))
    for module in (trees, tree_rows):
        monkeypatch.setattr(module, "row_of", lambda encoder, some: spoil(row_of(encoder, some)))
    with pytest.raises(ModelError, match=r"trainer.layout=trees: .*Set trainer.layout=rows"):
        tree_rows.held_to_rows(learner, encoder, trees_of(encoder, examples))


def test_positions_by_which_samples_would_be_kept_apart_lose_the_picture(qwen: Vlm, composer, monkeypatch) -> None:
    """Transformers takes a fourth row of positions without a mask as rows packed one behind another."""
    learner, encoder, examples = encoded(qwen, composer)
    learner.fused.of_trees = learner.fused.blocks = []
    real = QwenVL.words

    def words(self: QwenVL, tokens: Tokens) -> dict:
        if tokens.mask is None or tokens.mask.ndim < 4:
            return real(self, tokens)
        begins = [0, *(tokens.mask[0, 0].diagonal(-1).logical_not().nonzero()[:, 0] + 1).tolist(), tokens.ids.shape[1]]
        text = torch.cat([torch.arange(stop - start) for start, stop in itertools.pairwise(begins)])
        return {"input_ids": tokens.ids, "position_ids": torch.cat([text[None, None], tokens.positions])}

    made = trees_of(encoder, examples)
    row = row_of(encoder, made)
    right = learner.loss(row).item()
    monkeypatch.setattr(QwenVL, "words", words)
    monkeypatch.setattr("lab.model.text_decoder.added", lambda mask, dtype: None)
    assert abs(learner.loss(row).item() - right) > 1e-3 * right
    with pytest.raises(ModelError, match=r"log p of an answer's token is another than in a row of its own"):
        tree_rows.held_to_rows(learner, encoder, made)


def test_bfloat16_differs_as_rows_do_and_checkpointing_not_at_all(composer, tmp_path) -> None:
    vlm = vlm_of("qwen2_vl", tmp_path, dtype=DType.bfloat16)
    learner, encoder, examples = encoded(vlm, composer)
    rows, laid = encoder.collate(examples, with_answers=True, learned=True), lay_out(encoder, examples, None)
    alone = [encoder.collate([example], with_answers=True, learned=True) for example in examples]
    among, gap = gaps(learner, [rows], alone), gaps(learner, [laid], alone)
    print(f"bfloat16: loss {gap[0]:.1e}, gradients {gap[1]:.1e}; rows among themselves {among[0]:.1e}, {among[1]:.1e}")
    assert gap[0] < 1e-2 and gap[1] < 2 * max(among[1], 1e-2)
    learner.train()
    learner.fused.of_trees = []  # blocks are Transformers' own, as with checkpointing
    loss, plain = gradients(learner, [laid])
    capacity.recompute(vlm, True)
    again, same = gradients(learner, [laid])
    assert loss == again and plain.equal(same)


def test_a_plan_counts_what_a_row_leaves_out_of_the_last_block(composer, tmp_path) -> None:
    """Products in 16 bits, where the blocks are Transformers' own but for attention and the last one's ends."""
    vlm = vlm_of("qwen2_vl", tmp_path, dtype=DType.bfloat16)
    learner, encoder, examples = encoded(vlm, composer)
    row = row_of(encoder, trees_of(encoder, examples))

    def products() -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            learner.fused.predict(row)
        return sum(number for kind, number in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))

    left = products()
    learner.fused.of_trees = []  # Transformers' own
    whole = products()
    size = replace(encoder.size(examples[0]), length=row.prompt.ids.shape[1], rows=row.target.rows)
    unread = planning.unread(CostModel(vlm), size)
    counted = sum(number for (_, what), number in unread.items() if isinstance(what, int) and what != ATTENTION)
    assert 0 < counted == pytest.approx(whole - left, rel=0.05)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("model.attn_implementation=flash_attention_2",), r"model.attn_implementation=flash_attention_2: it takes no mask"),
        (("conditioning=cross_attention",), r"conditioning=cross_attention: .*has those of all"),
        (("model.quantisation=int8",), r"model.quantisation=int8: bitsandbytes"),
        (("trainer.packing=true",), r"trainer.packing=true: "),
    ],
)
def test_what_is_not_exact_is_refused_before_anything_loads(given: tuple[str, ...], sentence: str, composer, tmp_path) -> None:
    x = composer("trainer.layout=trees", *given)
    with pytest.raises(ConfigError, match=f"^trainer.layout=trees, {sentence}.* or trainer.layout=rows"):
        assembly.check(x)
    assert tree_rows.why_not(composer("trainer.layout=auto", *given), model.family("qwen2_vl")) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_with_dropout_they_are_rows_of_the_same_draws(family: str, composer, tmp_path, monkeypatch) -> None:
    """A mask stated for each token, one of what a picture's questions share: then loss and gradients are those of rows. It is told, never chosen."""
    vlm = model.load(checkpoints.save(family, tmp_path))
    lora.attach(vlm, LoraDial(name="llm", r=4, lora_dropout=0.5), seed=0)
    learner, encoder, examples = encoded(checkpoints.moved(vlm), composer)
    made, places, now = trees_of(encoder, examples), itertools.count(), {}
    drops = {module: torch.Generator().manual_seed(i) for i, module in enumerate(m for n, m in vlm.model.named_modules() if ".lora_dropout." in n)}
    table = {module: torch.rand(600, 600, generator=drawn) for module, drawn in drops.items()}

    def dropped(module: torch.nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        if module not in table or not module.training:
            return x
        tokens = now["tokens"] if x.shape[1] == len(now["tokens"]) else now["tokens"][now["places"]]
        return x * (table[module][tokens, : x.shape[-1]] >= module.p) / (1 - module.p)

    monkeypatch.setattr(torch.nn.Dropout, "forward", dropped)
    row, alone = [], []
    for tree in made:
        trunk = [next(places) for _ in range(tree.shared)]
        own = [[next(places) for _ in range(len(row.ids) - tree.shared)] for row in tree.rows]
        row += trunk + [place for branch in own for place in branch[:-1]]
        each = [encoder.collate([example], with_answers=True, learned=True) for example in tree.examples]
        alone += [(batch, torch.tensor(trunk + branch)) for batch, branch in zip(each, own, strict=True)]
    assert next(places) <= 600
    learner.train()
    laid = row_of(encoder, made)
    trained = [value for value in vlm.model.parameters() if value.requires_grad]
    now |= {"tokens": torch.tensor(row), "places": laid.target.places}
    loss = learner.loss(laid)
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, trained)])
    assert not torch.equal(loss, learner.eval().loss(laid))
    learner.train()
    rows = torch.zeros(())
    for batch, tokens in alone:
        now["tokens"] = tokens
        rows = rows + learner.objective.loss(vlm.predict(batch), part(batch.target.labels)) * (batch.targets / laid.targets)
    wanted = torch.cat([each.flatten() for each in torch.autograd.grad(rows, trained)])
    assert loss.item() == pytest.approx(rows.item(), rel=1e-6) and (gradient - wanted).norm() < 5e-6 * wanted.norm()
    x = composer("lora.lora_dropout=0.5", "trainer.layout=trees")
    assembly.check(x)
    told = [tree_rows.why_rows(one, vlm.family) for one in (x, composer("lora.lora_dropout=0.5", "trainer.layout=auto"))]
    assert told[0] is None and "share one draw" in str(told[1])


@pytest.mark.parametrize("method", ["pool", "merge", "prune", "resampler", "resize"])
def test_fewer_tokens_of_a_picture_are_those_of_rows(method: str, composer, tmp_path) -> None:
    vlm = model.load(checkpoints.save("qwen2_vl", tmp_path))
    vision_tokens.install(vlm, composer(f"vision_tokens={method}", "vision_tokens.budget=6").vision_tokens, 0)
    lora.attach(vlm, LoraDial(name="llm", r=4), seed=0)
    learner, encoder, examples = encoded(checkpoints.moved(vlm), composer)
    rows = encoder.collate(examples, with_answers=True, learned=True)
    assert max(gaps(learner, [lay_out(encoder, examples, None)], [rows])) < 1e-5


def test_a_training_in_trees_is_that_in_rows_and_goes_on_to_the_bit(small, tmp_path, monkeypatch, caplog) -> None:
    """One identity, one order, losses equal to rounding, and fewer tokens; a random order shares next to nothing, and that is said."""
    given = ("data.order=by_image", "trainer.accumulate_grad_batches=2", "trainer.save_every=1", "trainer.token_budget=200")
    runs = {}
    for layout in ("rows", "trees"):
        x = small(*given, f"trainer.layout={layout}", f"tracking.runs_dir={tmp_path}/{layout}")
        runs[layout] = running.run_alone(x, "command", time.time())
    rows, laid = runs.values()
    assert rows.identity == laid.identity and rows.facts["data"]["order"] == laid.facts["data"]["order"]
    assert laid.facts["layout"]["used"] == "trees" and laid.metrics["train/tokens_saved"] > 1.5
    assert laid.metrics["train/loss"] == pytest.approx(rows.metrics["train/loss"], rel=1e-5)
    assert laid.metrics["dev/nll"] == pytest.approx(rows.metrics["dev/nll"], rel=1e-4)
    whole = small(*given, "trainer.layout=trees", f"tracking.runs_dir={tmp_path}/trees")
    require_cut_ends_as(whole, small(*given, "trainer.layout=trees", f"tracking.runs_dir={tmp_path}/cut"), monkeypatch, 2)
    with caplog.at_level("INFO"):
        at_random = running.run_alone(small("trainer.layout=auto"), "command", time.time())
    assert at_random.facts["layout"]["used"] == "rows" and "data.order=random shares next to nothing" in at_random.facts["layout"]["why"]
    assert at_random.facts["layout"]["why"] in caplog.text and rows.identity != at_random.identity
