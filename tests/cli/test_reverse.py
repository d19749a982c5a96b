"""`mutransfer reverse` on the command line: the commands it says to run next."""

from __future__ import annotations

from tests.cli.conftest import invoke


def test_the_control_repeats_each_field_once_with_the_value_that_counts(write, gpt, tmp_path):
    config, out = write(gpt), tmp_path / "narrow.yaml"
    sets = ("training.steps=5", "hparams.lr=0.02", "parametrization=mup", "training.steps=6")
    given = [part for one in sets for part in ("--set", one)]
    code, stdout, stderr = invoke("reverse", str(config), "--width", "64", "--out", str(out), *given)
    assert code == 0, stderr
    says = " ".join(stdout.split())
    assert says.endswith("--set hparams.lr=0.02 --set training.steps=6 --set parametrization=sp")
    assert says.count("training.steps") == says.count("--set parametrization") == 1
