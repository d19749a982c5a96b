"""What the pages say is true: links resolve, snippets run, generated parts are up to date, prose is plain."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from mutransfer.cli import _VERBS
from mutransfer.config.load import load_config
from mutransfer.config.schema import RunConfig
from mutransfer.config.source import read_yaml
from mutransfer.verification import CoordinateCheck
from tests.cli.conftest import invoke
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
TOP = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md")]
PAGES = [*TOP, *sorted(DOCS.glob("*.md"))]
NOT_RUN = 18
"""Snippets that cannot run here. Each has a comment `<!-- not run: reason -->` in its page."""
_FENCED = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
_SNIPPET = re.compile(
    r"^(?:<!-- (?P<mark>.*?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_LINK = re.compile(r"\]\(((?!https?:|mailto:)[^)\s]+)\)")


@dataclass(frozen=True)
class Snippet:
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run:")

    @property
    def exit_code(self) -> int:
        return int(self.mark.removeprefix("exit ")) if self.mark.startswith("exit ") else 0


def snippets(page: Path) -> list[Snippet]:
    found = []
    for match in _SNIPPET.finditer(page.read_text(encoding="utf-8")):
        lines = match["text"].splitlines(keepends=True)
        text = "".join(line.removeprefix(match["indent"]) for line in lines)
        found.append(Snippet(match["language"], text, match["mark"] or ""))
    return found


def of_language(*languages: str) -> list[object]:
    """One case per page that has runnable snippets of these languages, with all of them in order."""
    cases = []
    for page in PAGES:
        found = [one for one in snippets(page) if one.language in languages and one.runs]
        if found:
            cases.append(pytest.param(found, id=page.name))
    return cases


def anchors(page: Path) -> set[str]:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    text = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", page.read_text(encoding="utf-8")))
    for link in _LINK.findall(text):
        target, _, anchor = link.partition("#")
        yield (page.parent / target).resolve() if target else page, anchor


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's configs in it, as the current one."""
    for name in ("configs", "sweeps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page):
    for target, anchor in links(page):
        assert target.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {target.name}#{anchor}"


@pytest.mark.parametrize("map_page", [REPOSITORY / "README.md", DOCS / "index.md"], ids=lambda page: page.name)
def test_the_maps_name_every_page(map_page):
    linked = {target for target, _ in links(map_page)}
    assert set(DOCS.glob("*.md")) - {DOCS / "index.md"} <= linked


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_a_link_and_an_anchor_that_lead_nowhere_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A *title*, with `code`\n\n[gone](gone.md) [title](#a-title-with-code) [none](#none)\n```\n# no title\n```\n"
    )
    assert anchors(page) == {"a-title-with-code"}
    assert list(links(page)) == [(tmp_path / "gone.md", ""), (page, "a-title-with-code"), (page, "none")]


def test_snippets_have_a_known_language_and_the_marks_are_counted():
    found = [one for page in PAGES for one in snippets(page)]
    assert {one.language for one in found} == {"sh", "python", "yaml", "json", "text"}
    assert all(re.fullmatch(r"|not run: .+|exit \d", one.mark) for one in found)
    assert sum(not one.runs for one in found) == NOT_RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_fenced(page):
    assert not re.findall(r"\n\n {4}\S.*", _FENCED.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("found", of_language("sh", "text"))
def test_shell_snippets_run(found, folder):
    said = [one.text for one in found if one.language == "text" and one.text.startswith("error: ")]
    for snippet in (one for one in found if one.language == "sh"):
        lines = [line for line in re.sub(r"\\\n", " ", snippet.text).splitlines() if line.strip()]
        wanted = said.pop(0) if snippet.exit_code else ""
        if all(line.startswith("mutransfer ") for line in lines):  # in this process, without the time of its start
            for line in lines:
                words = shlex.split(line, comments=True)[1:]
                paths = [str(path) for word in words for path in (Path().glob(word) if "*" in word else [word])]
                code, _, stderr = invoke(*paths)
                assert code == snippet.exit_code, f"{line}\n{stderr}"
                assert stderr == wanted or not wanted
            continue
        script = f'mutransfer() {{ "{sys.executable}" -m mutransfer "$@"; }}\n{snippet.text}'
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == snippet.exit_code, f"{snippet.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("found", of_language("python"))
def test_python_snippets_run(found, folder, capsys):
    names: dict[str, object] = {"__name__": "snippet"}
    for snippet in found:
        exec(compile(snippet.text, "snippet", "exec"), names)
    for line in "".join(snippet.text for snippet in found).splitlines():
        if line.startswith("print(") and "  # " in line:  # what the page says is printed
            assert line.partition("  # ")[2].split(":")[0] in capsys.readouterr().out
    check, own, optimizer = names.get("check"), names.get("own"), names.get("optimizer")
    if isinstance(check, CoordinateCheck):
        assert isinstance(own, CoordinateCheck)
        assert (check.outcome, own.outcome) == ("passed", "failed")
    if isinstance(optimizer, torch.optim.AdamW):
        assert {group["lr"] for group in optimizer.param_groups} == {4e-3, 4e-3 / 8}
        assert {group["eps"] for group in optimizer.param_groups} == {1e-8, 1e-8 / 8}


@pytest.mark.parametrize("found", of_language("yaml"))
def test_yaml_snippets_are_valid(found, folder):
    """A whole config, or any sections of one; a section without `kind` is completed from configs/proxy.yaml."""
    shipped = read_yaml(Path("configs/proxy.yaml")).data
    for one in (part for snippet in found for part in snippet.text.split("\n\n")):
        path = folder / "snippet.yaml"
        path.write_text(one, encoding="utf-8")
        given = read_yaml(path).data
        if "name" in given:
            load_config(path)
            continue
        for key, section in given.items():
            fields = read_yaml(Path(section)).data if isinstance(section, str) else section  # search may be a file
            base = {} if "kind" in fields else shipped.get(key, {})
            TypeAdapter(RunConfig.model_fields[key].rebuild_annotation()).validate_python({**base, **fields})


@pytest.mark.parametrize("found", of_language("json"))
def test_json_snippets_are_json(found):
    for snippet in found:
        json.loads(snippet.text)


@pytest.mark.parametrize("verb", _VERBS)
def test_every_command_is_in_the_reference(verb):
    assert re.search(rf"^## mutransfer {verb}\b", (DOCS / "cli.md").read_text(encoding="utf-8"), flags=re.M)


def test_the_yaml_of_the_readme_is_the_shipped_config():
    (block,) = [one.text for one in snippets(REPOSITORY / "README.md") if one.language == "yaml"]
    shipped = (REPOSITORY / "configs" / "proxy.yaml").read_text(encoding="utf-8")
    assert block == "".join(line for line in shipped.splitlines(keepends=True) if not line.startswith("#"))


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.findall(r"@[A-Z]+@|TODO|TBD", page.read_text(encoding="utf-8")), page.name


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_generated_docs_are_up_to_date():
    done = script("docs/build.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_prose_is_plain():
    done = script("docs/prose.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", [
    "This is no number.", "It has no word for that.", "It runs. Left out, it is one.", "Give two for that to be fast.",
    "A run on two would be neither.", "Packs are made as asked for.", "A word " * 20 + "too many.",
])  # fmt: skip
def test_odd_prose_is_found_in_pages_docstrings_messages_and_comments(text, monkeypatch):
    files = {"page.md": text, "doc.py": f'"""{text}"""', "string.py": f"raise ValueError(f'{{x}}: {text}')",
             "comment.py": f"# {text}\nx = 1"}  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", PROSE, json.dumps(files)], cwd=DOCS, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(found) == dict.fromkeys(files, 1)


PROSE = """
import json, pathlib, sys, tempfile, yaml, prose
rules = yaml.safe_load(pathlib.Path("prose.yaml").read_text())
prose.ROOT = pathlib.Path(tempfile.mkdtemp())
counts = {}
for name, text in json.loads(sys.argv[1]).items():
    (prose.ROOT / name).write_text(text)
    counts[name] = len(list(prose.findings(prose.ROOT / name, rules)))
print(json.dumps(counts))
"""
