"""The rules of the house, as far as a machine can tell. Each message names the place and the better way."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
MODULE_MAX_LINES = 600
FUNCTION_MAX_LINES = 70
FUNCTION_MEDIAN_LINES = 10
TOP_LEVEL = {
    *("gateway", "config", "firmware-hooks", "systemd", "tests", "pyproject.toml", "README.md"),
    *(".ci", ".gitignore", ".gitattributes", "LICENSE"),
}
#: Names that say nothing, and what the house says instead.
EMPTY_NAMES = re.compile(r"(manager|handler|helper|utils?|common|misc|processor)s?$", re.IGNORECASE)
#: Medical record numbers of made-up patients; nothing outside it may look like one.
SYNTHETIC_MRN = range(100_000, 200_000)
#: Written so that this file does not contain what it looks for.
OLD_MQTT = re.compile("asyncio" + r"[-_]" + "mqtt")
REGISTRY_HOSTS = re.compile(r"(py" + r"pi\.org|python" + r"hosted\.org|registry\.npm" + r"js|deb\.deb" + r"ian\.org|mirrors?\.[a-z]+\.)")
NOTES = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X|HA" + "CK)\\b|NotImplemented" + "Error")
BARE_SUPPRESSION = re.compile(r"#\s*type:\s*ignore(?!\[)|#\s*no" + r"qa(?!:\s*[A-Z])")
SKIP_MARKS = re.compile(r"pytest\.(mark\.(skip|skipif|xfail)\b|skip\(|xfail\(|importorskip\()")


def files(*suffixes: str) -> list[Path]:
    """Every file of the project, tracked or about to be, with one of these suffixes (none = all)."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    paths = [ROOT / name for name in sorted(set(listed.split("\0"))) if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def texts(*suffixes: str) -> Iterator[tuple[Path, str]]:
    for path in files(*suffixes):
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


def modules(top: str) -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in files(".py") if path.relative_to(ROOT).parts[0] == top]


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def packages() -> list[Path]:
    return [path.parent for path in files(".py") if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] == "gateway"]


def first_level() -> set[str]:
    return {path.name for path in packages() if path.parent == ROOT / "gateway"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def shown(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + ("" if line is None else f":{line}")


def found(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    """Places where ``pattern`` matches."""
    return [
        f"{shown(path, number)}: {line.strip()[:100]}"
        for path, text in texts(*suffixes)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


# ---------------------------------------------------------------- size


def test_no_module_is_too_long_to_read_in_one_sitting() -> None:
    counted = [(path, path.read_text().count("\n")) for path in files(".py")]
    long = [f"{shown(path)} has {lines} lines: split it by what changes together" for path, lines in counted if lines >= MODULE_MAX_LINES]
    assert not long, "\n".join(long)


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{shown(path, node.lineno)} {node.name} has {length(node)} lines"
        for path, tree in modules("gateway")
        for node in functions(tree)
        if length(node) > FUNCTION_MAX_LINES
    ]
    assert not long, "\n".join(long)


def test_most_functions_say_one_thing() -> None:
    median = statistics.median(length(node) for _, tree in modules("gateway") for node in functions(tree))
    assert median < FUNCTION_MEDIAN_LINES, f"median {median} lines"


def test_the_tests_are_at_least_as_large_as_the_code() -> None:
    code, tests = (sum(path.read_text().count("\n") for path, _ in modules(top)) for top in ("gateway", "tests"))
    assert tests >= code, f"code {code} lines, tests {tests}"


# ---------------------------------------------------------------- shape


def test_the_top_level_holds_only_what_the_design_lists() -> None:
    present = {path.relative_to(ROOT).parts[0] for path in files()}
    assert present <= TOP_LEVEL, present - TOP_LEVEL


def test_every_package_and_top_folder_has_a_readme() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in files() if len(path.relative_to(ROOT).parts) > 1} - {".ci"}
    wanted = [*packages(), *(ROOT / name for name in folders)]
    missing = [shown(path) for path in wanted if not (path / "README.md").is_file()]
    assert not missing, f"no README.md in {missing}"


def test_package_readmes_fit_on_a_screen_or_two() -> None:
    long = [shown(path) for package in packages() if len((path := package / "README.md").read_text().splitlines()) > 150]
    assert not long, f"longer than 150 lines: {long}"


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"(?m)^#+ +(.+?) *$", markdown)
    return {re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()).replace(" ", "-") for head in heads}


def broken_links(path: Path, markdown: str) -> Iterator[str]:
    prose = re.sub(r"(?s)```.*?```", "", markdown)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        if not to.exists():
            yield f"{shown(path)}: {target} does not exist"
        elif anchor and to.suffix == ".md" and anchor not in anchors(to.read_text()):
            yield f"{shown(path)}: {target} has no such heading"


def test_links_in_readmes_resolve() -> None:
    broken = [fault for path, text in texts(".md") for fault in broken_links(path, text)]
    assert not broken, "\n".join(broken)


def test_the_top_readme_leads_to_every_other_readme() -> None:
    top = (ROOT / "README.md").read_text()
    unlisted = [name for path in files(".md") if (name := shown(path)) != "README.md" and name not in top]
    assert not unlisted, f"the map of READMEs does not list {unlisted}"


def test_every_module_says_what_it_is_and_what_is_public() -> None:
    faults = []
    for path, tree in modules("gateway"):
        names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)}
        defines = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body)
        if not ast.get_docstring(tree):
            faults.append(f"{shown(path)}: no docstring")
        if defines and "__all__" not in names and path.name != "__main__.py":
            faults.append(f"{shown(path)}: no __all__")
    assert not faults, "\n".join(faults)


def test_annotations_are_never_evaluated_at_import() -> None:
    def late(tree: ast.Module) -> bool:
        return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)

    def annotates(tree: ast.Module) -> bool:
        return any(isinstance(node, ast.AnnAssign | ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))

    code = [(path, tree) for top in ("gateway", "tests") for path, tree in modules(top)]
    early = [shown(path) for path, tree in code if annotates(tree) and not late(tree)]
    assert not early, f"without `from __future__ import annotations`: {early}"


# ---------------------------------------------------------------- words


def test_names_use_the_word_of_the_field_not_an_empty_one() -> None:
    faults = []
    for top in ("gateway", "tests"):
        for path, tree in modules(top):
            named = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
            faults += [f"{shown(path, node.lineno)} {node.name}" for node in named if EMPTY_NAMES.search(node.name)]
            faults += [shown(path)] if EMPTY_NAMES.search(path.stem) else []
            faults += [f"{shown(path, node.lineno)} {node.name}: process what?" for node in named if node.name == "process"]
    assert not faults, "names that say nothing: " + ", ".join(faults)


def test_no_note_without_an_owner_is_left_behind() -> None:
    assert not (places := found(NOTES, ".py", ".sh", ".md", ".toml", ".sql", ".mjs")), "\n".join(places)


def test_every_suppression_names_what_it_suppresses() -> None:
    assert not (places := found(BARE_SUPPRESSION, ".py")), "\n".join(places)


def test_nothing_is_skipped_except_by_a_named_prerequisite() -> None:
    places = [place for place in found(SKIP_MARKS, ".py") if not place.startswith(("tests/prerequisites.py", "tests/test_house.py"))]
    assert not places, "use tests/prerequisites.py need(): " + "\n".join(places)


def test_the_old_name_of_the_mqtt_library_is_not_used() -> None:
    places = [place for place in found(OLD_MQTT) if "is its present name" not in place]
    assert not places, "aiomqtt is its present name:\n" + "\n".join(places)


def test_no_package_registry_is_named() -> None:
    assert not (places := found(REGISTRY_HOSTS)), "the machine's own settings say where packages come from:\n" + "\n".join(places)


def test_third_party_warnings_are_ignored_only_by_module_and_message() -> None:
    rules = project()["tool"]["pytest"]["ini_options"]["filterwarnings"]
    assert rules[0] == "error"
    loose = [rule for rule in rules[1:] if not re.fullmatch(r"ignore:[^:]{10,}:[A-Za-z.]+:[a-z_][\w.]*", rule)]
    assert not loose, f"want ignore:<message>:<category>:<module>, got {loose}"


# ---------------------------------------------------------------- patients


def medical_record_numbers(text: str) -> Iterator[str]:
    """What stands in PID-3, or looks like a typed patient identifier anywhere; four digits or more, fewer are nobody's number."""
    for field in re.findall(r"PID\|[^|\n]*\|[^|\n]*\|([^|\n\\\"']*)", text):
        yield from re.findall(r"(?:^|~)(\d{4,})(?=\^|~|$)", field)
    yield from re.findall(r"\b(\d{4,})\^\^\^[^|^\n]*\^(?:MR|PI|PN|PT)\b", text)


def test_patients_are_made_up_and_their_numbers_say_so() -> None:
    faults = [
        f"{shown(path, number)}: {mrn}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for mrn in medical_record_numbers(line)
        if int(mrn) not in SYNTHETIC_MRN
    ]
    assert not faults, f"record numbers outside {SYNTHETIC_MRN}: " + ", ".join(faults)


@pytest.mark.parametrize("text", ["PID|1||?^^^H^MR||DOE^JANE", "PID|||?", "PID|1||150000~?", "x ?^^^WARD^PI y"])
def test_the_search_for_record_numbers_finds_them(text: str) -> None:
    assert "7654321" in set(medical_record_numbers(text.replace("?", "7654321")))


# ---------------------------------------------------------------- tools


def tool(*command: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--no-cache", ".")


def test_every_file_is_formatted() -> None:
    tool("ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.timeout(900)
def test_mypy_strict_finds_nothing() -> None:
    tool("mypy")


def test_the_import_contracts_hold() -> None:
    tool("lint-imports", "--no-cache")


def contracts(kind: str) -> list[dict[str, Any]]:
    return [contract for contract in project()["tool"]["importlinter"]["contracts"] if contract["type"] == kind]


def test_every_existing_package_stands_in_the_layers_without_parentheses() -> None:
    (layers,) = contracts("layers")
    assert layers["exhaustive"] is True
    names = [name.strip() for row in layers["layers"] for name in row.split("|")]
    optional = {name[1:-1] for name in names if name.startswith("(")}
    assert not optional & first_level(), f"exist, so they lose their parentheses: {optional & first_level()}"
    assert first_level() == {name for name in names if not name.startswith("(")}


_LATER = {"policy", "mapping", "driver"}
_UPPER = {"source", "route", "sink", "receiver", "admin", "service"}
#: Words of a contract's name -> the packages that it rightly leaves out.
EXEMPT = {
    "SQL": {"journal"},
    "sockets": {"transport"},
    "sans-I/O": {"observe", "settings", "transport", "journal"} | _UPPER,
    "Command-line": {"receiver", "admin", "service"},
    "transport moves": {"model", "codec", "observe", "settings", "journal"} | _LATER | _UPPER,
}


@pytest.mark.parametrize("word", EXEMPT)
def test_no_package_is_missing_from_a_forbidden_contract(word: str) -> None:
    (contract,) = (contract for contract in contracts("forbidden") if word in contract["name"])
    listed = {name.removeprefix("gateway.") for name in contract["source_modules"]}
    assert listed <= first_level(), f"do not exist: {listed - first_level()}"
    missing = first_level() - listed - EXEMPT[word]
    assert not missing, f"{contract['name']}: {missing} not listed"


# ---------------------------------------------------------------- dependencies


def test_run_time_dependencies_are_ranges_and_tools_are_pinned() -> None:
    table = project()["project"]
    loose = [text for text in table["dependencies"] if not re.fullmatch(r"[a-z0-9-]+>=[\d.]+,<\d+", text)]
    assert not loose, f"want name>=x,<y: {loose}"
    extras = table["optional-dependencies"]
    unpinned = [text for name in ("dev", "fuzz") for text in extras[name] if not re.match(r"[A-Za-z0-9-]+==[\d.]+(;|$)", text)]
    assert not unpinned, f"development tools are pinned exactly: {unpinned}"


def locked(text: str) -> dict[str, str]:
    """Package -> version of a hashed lock."""
    return {name.lower(): version for name, version in re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^ \\;]+)", text)}


def test_the_lock_agrees_with_the_pins() -> None:
    lock = locked((ROOT / "tests/requirements.txt").read_text())
    pins = [re.match(r"([A-Za-z0-9-]+)==([\d.]+)", text) for text in project()["project"]["optional-dependencies"]["dev"]]
    stale = [pin[0] for pin in pins if pin and lock.get(pin[1].lower()) != pin[2]]
    assert not stale, f"make the lock again (tests/README.md): {stale}"


@pytest.mark.parametrize("path", ["tests/requirements.txt", "tests/peers/requirements-node.txt", "tests/peers/requirements-hl7.txt"])
def test_every_line_of_a_lock_carries_its_hashes(path: str) -> None:
    text = (ROOT / path).read_text()
    entries = re.findall(r"(?ms)^[A-Za-z0-9_.-]+==.*?(?=^\S|\Z)", text)
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_node_lock_names_no_registry_and_carries_integrity() -> None:
    text = (ROOT / "tests/peers/node/package-lock.json").read_text()
    assert '"resolved"' not in text
    assert text.count('"integrity": "sha512-') >= 2


def test_ci_runs_what_the_readme_tells_a_person_to_run() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "bash tests/run.sh"
    assert "bash tests/run.sh" in (ROOT / "README.md").read_text()
