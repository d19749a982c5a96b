"""The contract of data sources, run over every kind, and what each kind adds."""

from __future__ import annotations

import io
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mutransfer.config.data import DigitsSection, ParquetImagesSection, TextSection, TokensSection
from mutransfer.data import digits
from mutransfer.data.dataset import Dataset, _moments
from mutransfer.testing.data_sources import DataSourceContract, TokenSourceContract, check_epochs, fresh, same
from tests.conftest import TEXT, real_data


def marked(marker: str) -> str:
    """Text that says at each place which file it is from."""
    return "".join(f"{marker}{number} " for number in range(80))


def markers(data: Dataset) -> set[str]:
    """Files that a data set was read from."""
    parts = [data.batch(step, batch_size=16, seed=0) for step in range(20)]
    parts += data.validation(batch_size=16, batches=99)
    return {letter for inputs, _ in parts for letter in map(chr, inputs.flat) if letter.isupper()}


class TestTextFile(TokenSourceContract):
    @pytest.fixture
    def section(self, corpus: Path) -> TextSection:
        return TextSection(kind="text", paths=(str(corpus),), seq_len=16)

    @pytest.fixture
    def change(self, corpus: Path) -> Callable[[], None]:
        return lambda: corpus.write_text(TEXT.replace("line 7:", "line 8:"), encoding="utf-8") and None


class TestTextGlob(TokenSourceContract):
    @pytest.fixture
    def section(self, tmp_path: Path) -> TextSection:
        for name in ("a.txt", "deep/b.txt", "deep/deeper/c.txt", "deep/d.md"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(marked(name[-5].upper()), encoding="utf-8")
        return TextSection(kind="text", paths=(str(tmp_path / "**" / "*.txt"),), seq_len=8, validation_fraction=0.5)

    @pytest.fixture
    def change(self, tmp_path: Path) -> Callable[[], None]:
        return lambda: (tmp_path / "deep" / "e.txt").write_text("e" * 20, encoding="utf-8") and None

    def test_two_stars_cross_folders_and_other_files_stay_out(self, section: TextSection) -> None:
        assert markers(fresh(section)) == {"A", "B", "C"}

    def test_a_file_that_two_patterns_match_counts_once(self, section: TextSection, tmp_path: Path) -> None:
        twice = section.model_copy(update={"paths": (*section.paths, str(tmp_path / "a.txt"))})
        assert fresh(twice).fingerprint == fresh(section).fingerprint


class TestStandardLibrary(TokenSourceContract):
    """On a small folder in its place; the real one has a test of its own."""

    @pytest.fixture
    def section(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSection:
        for name in ("os.py", "json/decoder.py", "test/test_os.py", "site-packages/torch.py", "notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(marked(name[0].upper()), encoding="utf-8")
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
        return TextSection(kind="text", source="python-stdlib", seq_len=8, validation_fraction=0.5)

    @pytest.fixture
    def change(self, tmp_path: Path) -> Callable[[], None]:
        return lambda: (tmp_path / "new.py").write_text("pass\n", encoding="utf-8") and None

    def test_only_its_own_python_files_are_read(self, section: TextSection) -> None:
        assert markers(fresh(section)) == {"O", "J"}

    def test_the_one_of_this_python_is_large_enough_for_the_shipped_config(self, monkeypatch: Any) -> None:
        data = fresh(TextSection(kind="text", source="python-stdlib", seq_len=64))
        assert sum(len(inputs) for inputs, _ in data.validation(batch_size=16, batches=100)) == 1600
        assert b" " in data.batch(0, batch_size=16, seed=0)[0].astype(np.uint8).tobytes()


class TestTokensUint16(TokenSourceContract):
    DTYPE = "uint16"
    FIRST = 0

    @pytest.fixture
    def tokens(self, tmp_path: Path) -> Path:
        """Every id once, so that an id is a position."""
        path = tmp_path / "tokens.bin"
        np.arange(self.FIRST, self.FIRST + 2000).astype(f"<{np.dtype(self.DTYPE).str[1:]}").tofile(path)
        return path

    @pytest.fixture
    def section(self, tokens: Path) -> TokensSection:
        return TokensSection(
            kind="tokens", path=str(tokens), dtype=self.DTYPE, vocab_size=self.FIRST + 2000, seq_len=10,
            validation_fraction=0.25,
        )  # type: ignore[arg-type]  # fmt: skip

    @pytest.fixture
    def change(self, tokens: Path) -> Callable[[], None]:
        def swap_one() -> None:
            content = bytearray(tokens.read_bytes())
            content[1000] ^= 1
            tokens.write_bytes(bytes(content))

        return swap_one

    def test_training_and_validation_share_no_position(self, section: TokensSection) -> None:
        data = fresh(section)
        batches = [data.batch(step, batch_size=400, seed=seed) for step in range(20) for seed in (0, 1)]
        trained = {token for pair in batches for part in pair for token in part.flat}
        held_out = [token for pair in data.validation(batch_size=8, batches=99) for token in pair[0].flat]
        held_out_targets = {token for pair in data.validation(batch_size=8, batches=99) for token in pair[1].flat}
        assert not trained & (set(held_out) | held_out_targets)
        # Both parts are used to their ends, and validation windows do not overlap.
        assert (min(trained), max(trained)) == (self.FIRST, self.FIRST + 1499)
        assert len(set(held_out)) == len(held_out) == 490
        assert (min(held_out), max(held_out_targets)) == (self.FIRST + 1500, self.FIRST + 1990)

    def test_validation_windows_are_spread_over_their_part(self, section: TokensSection) -> None:
        starts = [int(x[0]) - self.FIRST for x, _ in fresh(section).validation(batch_size=1, batches=5) for x in x]
        assert starts[0] == 1500
        assert starts[-1] == 1500 + 480
        assert len(set(starts)) == 5

    def test_windows_are_consecutive_tokens(self, section: TokensSection) -> None:
        inputs, targets = fresh(section).batch(0, batch_size=8, seed=0)
        assert (np.diff(inputs, axis=1) == 1).all()
        assert (targets == inputs + 1).all()


class TestTokensUint32(TestTokensUint16):
    DTYPE = "uint32"
    FIRST = 1 << 20  # ids that 16 bits cannot hold


class TestDigits(DataSourceContract):
    @pytest.fixture
    def section(self) -> DigitsSection:
        pytest.importorskip("sklearn")
        return DigitsSection(kind="digits", validation_fraction=0.2)

    @pytest.fixture
    def change(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        rows = digits._rows()

        def darken_one_pixel() -> None:
            rows[5, 5] += 1
            monkeypatch.setattr(digits, "_rows", lambda: rows)

        return darken_one_pixel

    def test_the_file_is_what_scikit_learn_loads(self) -> None:
        import sklearn.datasets

        theirs = sklearn.datasets.load_digits()
        rows = digits._rows()
        assert np.array_equal(rows[:, :-1], theirs.data)
        assert np.array_equal(rows[:, -1], theirs.target)

    def test_training_examples_come_once_per_epoch_and_never_in_validation(self, section: DigitsSection) -> None:
        check_epochs(section)

    def test_training_examples_have_zero_mean_and_unit_variance(self, section: DigitsSection) -> None:
        inputs, labels = fresh(section).batch(0, batch_size=1438, seed=0)  # one epoch
        assert inputs.mean() == pytest.approx(0, abs=1e-5)
        assert inputs.std() == pytest.approx(1, abs=1e-5)
        assert set(labels) == set(range(10))


def write_images(path: Path, images: list[Any], labels: list[Any], columns: tuple[str, str] = ("img", "label")) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({columns[0]: images, columns[1]: labels}), path)
    return path


def encoded(array: Any, form: str = "PNG") -> bytes:
    image = pytest.importorskip("PIL.Image")
    content = io.BytesIO()
    image.fromarray(array).save(content, form)
    return content.getvalue()


class TestParquetImages(DataSourceContract):
    SIZE, CHANNELS = 4, 3

    @pytest.fixture
    def made(self, tmp_path: Path) -> SimpleNamespace:
        """40 images that all differ, as structs with a `bytes` field (the hub's way)."""
        pixels = np.random.default_rng(0).integers(0, 256, (40, self.SIZE, self.SIZE, self.CHANNELS), dtype=np.uint8)
        images = [{"bytes": encoded(array.squeeze()), "path": None} for array in pixels]
        labels = [row % 3 for row in range(40)]
        return SimpleNamespace(path=tmp_path / "images.parquet", pixels=pixels, images=images, labels=labels)

    @pytest.fixture
    def section(self, made: SimpleNamespace) -> ParquetImagesSection:
        write_images(made.path, made.images, made.labels)
        return ParquetImagesSection(
            kind="parquet-images", path=str(made.path), size=self.SIZE, channels=self.CHANNELS, classes=3,
            validation_fraction=0.25,
        )  # type: ignore[arg-type]  # fmt: skip

    @pytest.fixture
    def change(self, made: SimpleNamespace) -> Callable[[], None]:
        return lambda: write_images(made.path, made.images, [*made.labels[:-1], 1]) and None

    def test_training_examples_come_once_per_epoch_and_never_in_validation(self, section: Any) -> None:
        check_epochs(section)

    def test_pixels_keep_their_place_and_their_label(self, section: Any, made: SimpleNamespace) -> None:
        inputs, labels = fresh(section).batch(0, batch_size=30, seed=0)
        # Normalising is affine per channel: undo it from two pixels, and every other pixel has to fit.
        planes = {made.pixels[row].transpose(2, 0, 1).tobytes(): made.labels[row] for row in range(40)}
        stored = np.frombuffer(b"".join(planes), np.uint8).reshape(40, self.CHANNELS, self.SIZE, self.SIZE)
        for image, label in zip(inputs, labels, strict=True):
            fits = [
                all(np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9999 for a, b in zip(image, other, strict=True))
                for other in stored
            ]
            assert fits.count(True) == 1
            assert list(planes.values())[fits.index(True)] == label

    def test_a_limit_takes_the_first_rows_only(self, section: Any) -> None:
        limited = fresh(section.model_copy(update={"limit": 20}))
        assert sum(len(inputs) for inputs, _ in limited.validation(batch_size=8, batches=9)) == 5

    def test_rows_beyond_the_limit_are_not_read(self, section: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        taken: list[int] = []
        real = parquet.ParquetFile.iter_batches

        def counting(*arguments: Any, **options: Any) -> Any:
            for batch in real(*arguments, **options):
                taken.append(len(batch))
                yield batch

        monkeypatch.setattr(parquet.ParquetFile, "iter_batches", counting)
        monkeypatch.setattr("mutransfer.data.parquet_images._ROWS", 8)
        fresh(section.model_copy(update={"limit": 18}))
        assert sum(taken) == 24
        fresh(section)
        assert sum(taken) == 24 + 40

    def test_images_are_decoded_once(
        self, section: Any, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = fresh(section)
        monkeypatch.setattr("mutransfer.data.images._decode", None)
        again = fresh(section)
        assert again.fingerprint == before.fingerprint
        assert same(again.batch(0, batch_size=8, seed=0), before.batch(0, batch_size=8, seed=0))
        write_images(made.path, made.images[::-1], made.labels)
        with pytest.raises(TypeError):  # other data is decoded anew
            fresh(section)


@pytest.mark.parametrize("count", [10, 3000])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 4), (5,)])
def test_exact_sums_give_the_mean_and_deviation_that_numpy_gives(count: int, shape: tuple[int, ...]) -> None:
    examples = np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)
    rows = np.arange(0, count, 3)
    exact, plain = _moments(examples, rows), _moments(examples.astype(np.float64), rows)
    for one, other in zip(exact, plain, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype == np.float32
        assert one == pytest.approx(other, rel=1e-6)


class TestGreyParquetImages(TestParquetImages):
    CHANNELS = 1

    @pytest.fixture
    def made(self, tmp_path: Path) -> SimpleNamespace:
        """As bytes without a struct around them."""
        pixels = np.random.default_rng(0).integers(0, 256, (40, self.SIZE, self.SIZE, 1), dtype=np.uint8)
        images = [encoded(array.squeeze()) for array in pixels]
        labels = [row % 3 for row in range(40)]
        return SimpleNamespace(path=tmp_path / "images.parquet", pixels=pixels, images=images, labels=labels)


class TestCifar10(DataSourceContract):
    @pytest.fixture
    def section(self) -> ParquetImagesSection:
        pytest.importorskip("pyarrow")
        return ParquetImagesSection(kind="parquet-images", path=str(real_data("cifar10", "test.parquet")), limit=200)

    @pytest.fixture
    def change(self, section: ParquetImagesSection, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """The file stays as it is: another limit is other data."""
        return lambda: object.__setattr__(section, "limit", 199)

    def test_training_examples_come_once_per_epoch_and_never_in_validation(self, section: Any) -> None:
        check_epochs(section)
