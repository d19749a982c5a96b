"""Masked tokens: the contract of data sources, and what is masked how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mutransfer.config.data import MaskedSpec, TextSection, TokensSection
from mutransfer.data.dataset import IGNORED
from mutransfer.errors import DataError
from mutransfer.testing.data_sources import DataSourceContract, fresh
from tests.conftest import TEXT, build

MASK = 256


class TestMaskedText(DataSourceContract):
    @pytest.fixture
    def section(self, corpus: Path) -> TextSection:
        return TextSection(kind="text", paths=(str(corpus),), seq_len=16, mask=0.25)

    @pytest.fixture
    def change(self, corpus: Path) -> Callable[[], None]:
        return lambda: corpus.write_text(TEXT.replace("line 7:", "line 8:"), encoding="utf-8") and None


def section(corpus: Path, **fields: Any) -> TextSection:
    return TextSection(kind="text", paths=(str(corpus),), **{"seq_len": 40, "mask": 0.15, **fields})


def test_the_mask_is_one_id_more(corpus: Path) -> None:
    assert section(corpus).spec == MaskedSpec(vocab_size=257, seq_len=40)
    assert section(corpus, mask=None).spec.consumed_as == "tokens"


def test_so_many_tokens_of_each_sequence_are_to_be_guessed_and_the_others_are_as_they_were(corpus: Path) -> None:
    masked, plain = fresh(section(corpus)), fresh(section(corpus, mask=None))
    parts = [(masked.batch(3, batch_size=8, seed=1), plain.batch(3, batch_size=8, seed=1))]
    parts += zip(masked.validation(batch_size=4, batches=2), plain.validation(batch_size=4, batches=2), strict=True)
    assert len(parts) == 3
    for (inputs, targets), (tokens, _) in parts:
        chosen = targets != IGNORED
        assert set(chosen.sum(axis=1)) == {6}
        assert np.array_equal(targets[chosen], tokens[chosen])
        assert np.array_equal(inputs[~chosen], tokens[~chosen])


def test_eighty_percent_are_masks_ten_any_token_and_ten_as_they_were(corpus: Path) -> None:
    data = fresh(section(corpus))
    fates = []
    for step in range(60):
        inputs, targets = data.batch(step, batch_size=32, seed=0)
        chosen = targets != IGNORED
        fates += [*zip(inputs[chosen], targets[chosen], strict=True)]
    given, true = (np.array(side) for side in zip(*fates, strict=True))
    count = len(given)
    assert count == 60 * 32 * 6
    assert (given == MASK).mean() == pytest.approx(0.8, abs=5 * (0.16 / count) ** 0.5)
    # One of 256 random tokens is the true one by chance.
    assert (given == true).mean() == pytest.approx(0.1 + 0.1 / 256, abs=5 * (0.09 / count) ** 0.5)
    replaced = given[(given != MASK) & (given != true)]
    assert len(np.unique(replaced)) > 200
    assert not np.isin(np.unique(replaced), true).all()  # from the whole vocabulary, not from the text


def test_places_differ_between_sequences_steps_and_seeds_and_every_place_is_reached(corpus: Path) -> None:
    data = fresh(section(corpus))
    places = {
        (targets[row] != IGNORED).tobytes()
        for step, seed in ((0, 0), (1, 0), (0, 1))
        for targets in [data.batch(step, batch_size=16, seed=seed)[1]]
        for row in range(16)
    }
    assert len(places) == 48
    reached = np.stack([np.frombuffer(one, dtype=bool) for one in places]).mean(axis=0)
    assert reached.min() > 0


def test_a_validation_sequence_has_one_mask_whatever_the_batch_size(corpus: Path) -> None:
    data = fresh(section(corpus))
    ((many_inputs, many_targets),) = data.validation(batch_size=8, batches=1)
    few = [*data.validation(batch_size=4, batches=2)]
    assert np.array_equal(many_inputs, np.concatenate([inputs for inputs, _ in few]))
    assert np.array_equal(many_targets, np.concatenate([targets for _, targets in few]))


def test_one_token_at_least_is_to_be_guessed(corpus: Path) -> None:
    _, targets = fresh(section(corpus, mask=0.001)).batch(0, batch_size=8, seed=0)
    assert set((targets != IGNORED).sum(axis=1)) == {1}


def test_data_that_has_the_masks_id_is_refused(tmp_path: Path) -> None:
    np.full(100, 10, dtype="<u2").tofile(tmp_path / "ids.bin")
    given = TokensSection(kind="tokens", path=str(tmp_path / "ids.bin"), vocab_size=10, seq_len=8, mask=0.2)
    with pytest.raises(DataError, match="has token id 10, but vocab_size is 10"):
        fresh(given)


def test_masked_tokens_are_for_bert_and_bert_is_for_them(gpt: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gives masked tokens, but model kind gpt takes tokens"):
        build(gpt, data__mask=0.15)
    bert = {"kind": "bert", "width": 16, "base_width": 16, "head_dim": 8}
    with pytest.raises(ValueError, match=r"gives tokens, but model kind bert takes masked tokens; set data\.mask"):
        build(gpt, model=bert)
    assert build(gpt, model=bert, data__mask=0.15).model.kind == "bert"
