"""What counts as the code behind a factory."""

from __future__ import annotations

import importlib

from mutransfer.config.factory import code_of


def test_the_code_behind_a_factory_is_its_file_and_what_that_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "code_main.py").write_text("import math\nfrom code_part import X\n\n\ndef build():\n    return X\n")
    (tmp_path / "code_part.py").write_text("X = 1\n")
    (tmp_path / "code_other.py").write_text("Y = 1\n")
    for name in ("code_main", "code_other"):
        importlib.import_module(name)
    before = code_of(["code_main:build"])
    (tmp_path / "code_other.py").write_text("Y = 2\n")
    (tmp_path / "code_part.py").write_text("X = 1  # a comment\n")
    assert code_of(["code_main:build"]) == before
    (tmp_path / "code_part.py").write_text("X = 2\n")
    assert code_of(["code_main:build"]) != before
