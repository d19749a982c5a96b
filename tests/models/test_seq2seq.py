"""What an encoder–decoder sees, and that its searches find what they are to find."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import vmap

from mutransfer.config.data import PairSpec
from mutransfer.config.data.base import BEGIN, END, PAD
from mutransfer.config.models import Seq2SeqSection
from mutransfer.data import load_data
from mutransfer.models import build_model
from mutransfer.models.decoding import translate
from mutransfer.models.layers import sinusoids
from mutransfer.models.seq2seq import Decoding, Seq2Seq
from mutransfer.training.kernels import PackedKernels
from mutransfer.training.learner import Learner
from mutransfer.training.loss import losses_of
from tests.conftest import build

CPU = torch.device("cpu")
SPEC = PairSpec(source_vocab=20, target_vocab=6, source_len=7, target_len=5)


def model(seed: int = 0, **fields: Any) -> Seq2Seq:
    """A model with torch's own random weights, in which everything depends on everything."""
    torch.manual_seed(seed)
    section = Seq2SeqSection(kind="seq2seq", width=16, base_width=16, head_dim=8, **fields)
    made = build_model(section, SPEC)
    assert isinstance(made, Seq2Seq)
    return made.eval()


def sources(*lengths: int) -> torch.Tensor:
    """Random sources of these lengths, their ends included."""
    rows = torch.full((len(lengths), SPEC.source_len), PAD)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(3, SPEC.source_vocab, (length,))
        row[length - 1] = END
    return rows


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_target_sees_no_later_target_and_the_whole_source(positions: str) -> None:
    made, source = model(positions=positions), sources(7)
    target = torch.tensor([[BEGIN, 3, 4, 5, 3]])
    before = made(source, target)
    changed = target.clone()
    changed[0, 3] = 4
    after = made(source, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amax(-1).min() > 1e-4
    for place in range(7):
        other = source.clone()
        other[0, place] = 3 + (source[0, place] - 2) % 17
        assert (made(other, target) - before).abs().amax(-1).min() > 1e-5, place


def test_what_a_source_is_padded_with_changes_nothing() -> None:
    made, source = model(), sources(3, 7)
    target = torch.tensor([[BEGIN, 3, 4, 5, 3]] * 2)
    alone = made(source[:1, :3], target[:1])
    torch.testing.assert_close(made(source, target)[:1], alone)


def test_attention_is_torchs_transformer_layer_with_the_same_weights() -> None:
    """nn.TransformerDecoderLayer, pre-norm, as the oracle of a block with masks and a memory."""
    made = model()
    block, (memory, mask) = made.decoder.blocks[0], made.encode(sources(3, 7))
    x = torch.randn(2, 5, 16)
    oracle = torch.nn.TransformerDecoderLayer(16, 2, 64, 0.0, F.gelu, batch_first=True, norm_first=True, bias=False)
    with torch.no_grad():
        for theirs, ours in ((oracle.self_attn, block.attention), (oracle.multihead_attn, block.cross)):
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
            theirs.out_proj.weight.copy_(ours.out.weight)
        oracle.linear1.weight.copy_(block.up.weight)
        oracle.linear2.weight.copy_(block.down.weight)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = oracle(x, memory, tgt_mask=causal, memory_key_padding_mask=~mask[:, 0, 0])
    torch.testing.assert_close(block(x, memory, mask=mask, causal=True), expected)


@pytest.mark.filterwarnings("error:.*performance drop")
def test_masks_fold_under_vmap() -> None:
    """A source's padding mask, which members share, and one of their own; forward and backward, without a loop."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 4, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    shared = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    own = torch.stack([shared, shared.flip(0), torch.ones_like(shared)])
    for mask, dim in ((shared, None), (own, 0)):
        with PackedKernels():
            folded = vmap(F.scaled_dot_product_attention, in_dims=(0, 0, 0, dim))(query, key, value, mask)
        looped = torch.stack(
            [
                F.scaled_dot_product_attention(query[i], key[i], value[i], mask if dim is None else mask[i])
                for i in range(3)
            ]
        )
        torch.testing.assert_close(folded, looped)
        for ours, theirs in zip(
            torch.autograd.grad(folded.square().sum(), (query, key, value)),
            torch.autograd.grad(looped.square().sum(), (query, key, value)),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs)


def test_sinusoids_are_vaswanis_and_tell_positions_apart() -> None:
    table = sinusoids(50, 8, torch.empty(0))
    for position, index in itertools.product((0, 7, 49), range(4)):
        angle = position / 10000 ** (2 * index / 8)
        assert table[position, index] == pytest.approx(np.sin(angle), abs=1e-5)
        assert table[position, 4 + index] == pytest.approx(np.cos(angle), abs=1e-5)
    assert sinusoids(50, 7, torch.empty(0)).shape == (50, 7)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.1


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_reading_a_word_at_a_time_gives_the_logits_of_reading_all(positions: str) -> None:
    made, source = model(positions=positions, depth=3), sources(4, 7, 2)
    target = torch.tensor([[BEGIN, 3, 4, 5, 3], [BEGIN, 4, 4, 4, 4], [BEGIN, 5, 3, 5, 3]])
    whole, decoding = made(source, target), Decoding(made, source)
    for place in range(5):
        torch.testing.assert_close(decoding.read(target[:, place]), whole[:, place])
        if place == 2:  # and goes on with rows in another order, one of them twice
            rows = torch.tensor([2, 0, 0])
            decoding.keep(rows)
            target, whole = target[rows], whole[rows]


def all_translations(made: Seq2Seq, source: torch.Tensor, longest: int) -> dict[tuple[int, ...], float]:
    """Log probability of every possible translation of one source; those of `longest` words need no end."""
    words = [token for token in range(SPEC.target_vocab) if token not in (PAD, BEGIN, END)]
    found = {}
    for length in range(longest + 1):
        for sentence in itertools.product(words, repeat=length):
            target = [*sentence, END][:longest]
            logits = made(source, torch.tensor([[BEGIN, *target[:-1]]]))[0]
            steps = torch.log_softmax(logits, -1)[range(len(target)), target]
            found[sentence] = float(steps.sum())
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_all_hypotheses_finds_the_best_translation_there_is(penalty: float) -> None:
    longest = 3
    made, source = model(seed=3, depth=1), sources(5, 3, 7)
    with torch.no_grad():
        found = translate(lambda given: Decoding(made, given), source, beam=64, longest=longest, penalty=penalty)
        for row, sentence in enumerate(found):
            every = all_translations(made, source[row : row + 1], longest)
            best = max(every, key=lambda one: every[one] / min(len(one) + 1, longest) ** penalty)
            assert tuple(sentence) == best


def test_a_beam_of_one_takes_the_likeliest_word_each_time_and_a_wider_one_is_no_worse() -> None:
    made, source = model(seed=1), sources(5, 3, 7, 6)
    with torch.no_grad():
        greedy = translate(lambda given: Decoding(made, given), source, beam=1, longest=5)
        wide = translate(lambda given: Decoding(made, given), source, beam=8, longest=5, penalty=0.0)
        for row in range(len(source)):
            target = [BEGIN]
            while len(target) <= 5 and target[-1] != END:
                logits = made(source[row : row + 1], torch.tensor([target]))[0, -1].clone()
                logits[[PAD, BEGIN]] = -torch.inf
                target.append(int(logits.argmax()))
            assert greedy[row] == [word for word in target[1:] if word != END]
            every = all_translations(made, source[row : row + 1], 5)
            assert every[tuple(wide[row])] >= every[tuple(greedy[row])] - 1e-6
    assert all(token not in (PAD, BEGIN, END) for sentence in [*greedy, *wide] for token in sentence)


def test_temperature_divides_the_logits_that_are_searched(pairs: dict[str, Any]) -> None:
    hot, cold = (Learner(build(pairs, hparams__temperature=one), CPU).model for one in (2.0, 1.0))
    torch.nn.init.normal_(hot.readout.weight)
    cold.load_state_dict(dict(hot.named_parameters()))
    source = torch.tensor([[4, 5, END]])
    logits = [Decoding(one, source).read(torch.tensor([BEGIN])) for one in (hot, cold)]
    torch.testing.assert_close(2 * logits[0], logits[1])


def test_the_loss_is_over_words_and_smoothed_in_training_only(pairs: dict[str, Any]) -> None:
    config = build(pairs, model__label_smoothing=0.3)
    learner, data = Learner(config, CPU), load_data(config.data)
    torch.nn.init.normal_(learner.model.readout.weight)
    (source, read), targets = data.batch(0, batch_size=4, seed=0)
    with torch.no_grad():
        logits = learner.model(torch.from_numpy(source), torch.from_numpy(read)).log_softmax(-1)
    words = torch.from_numpy(targets) != -100
    assert 0 < words.sum() < words.numel()
    own = -logits[words].gather(1, torch.from_numpy(targets)[words][:, None]).mean()
    smoothed = 0.7 * own - 0.3 * logits[words].mean()
    batch = ((source, read), targets)
    assert learner.evaluate([batch]) == pytest.approx(float(own), rel=1e-5)
    assert float(learner.train_step(0, batch)) == pytest.approx(float(smoothed), rel=1e-5)


def test_a_packs_loss_is_over_each_members_own_words() -> None:
    section = Seq2SeqSection(kind="seq2seq", width=16, base_width=16, head_dim=8)
    logits, targets = torch.randn(2, 3, 4, 6), torch.randint(0, 6, (2, 3, 4))
    targets[0, 1:] = -100
    targets[1, :, 3] = -100
    found = losses_of(logits, targets, section.criterion, train=True)
    for row in range(2):
        assert float(found[row]) == pytest.approx(
            float(F.cross_entropy(logits[row].flatten(0, 1), targets[row].flatten()))
        )
