"""Counts product code beside 75b0fb2: `python tests/size.py [COMMIT]` prints docs/decisions/size.md's table.

What both have is everything that NEW does not name: a module that replaced older code counts there, and so does every
line by which older code grew. NEW names modules and single definitions of capabilities that 75b0fb2 did not have.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "75b0fb2"
# Where the modules that lay loose in bundle/ live now; its packages, but for the single modules named here, kept their
# names.
MOVED = {
    "audit": "audit", "bench": "bench", "engines": "engines", "fetching": "fetching", "graph": "graph",
    "images": "images", "layers": "images", "locks": "locks", "packing": "packing", "installer": "packing",
    "report": "report", "checks.py": "cli", "doctor.py": "cli", "main.py": "cli", "tasking.py": "cli",
    "console.py": "display", "progress.py": "display", "progress_display.py": "display", "crate.py": "report",
    "demo.py": "run", "inputs.py": "run", "record.py": "run", "reproduce.py": "run", "target.py": "run",
    "errors.py": "base", "files.py": "base", "paths.py": "base", "templates.py": "base", "toml.py": "base",
    "user_lock.py": "base", "utf8.py": "base", "__init__.py": "base", "host.py": "machine", "npu.py": "machine",
    "npu_access.py": "engines", "published.py": "guide", "toolchain.py": "guide", "verdict.py": "guide",
    "sbom.py": "packing", "sources.py": "locks", "images/spec.py": "container", "engines/base.py": "container",
    "engines/cgroups.py": "machine", "engines/emulation.py": "machine", "engines/owner.py": "machine",
    "engines/private_binfmt.py": "machine", "engines/select.py": "run", "engines/when_needed.py": "run",
    "locks/apt.py": "resolving", "locks/intents.py": "resolving", "locks/prove.py": "resolving",
    "locks/wheels.py": "resolving", "locks/write.py": "resolving", "packing/host_wheels.py": "resolving",
}  # fmt: skip
# Capability -> what it is made of: a module, all modules below a folder, or MODULE:DEFINITION,DEFINITION.
NEW = {
    "audit explains differences": [
        "repro/audit/explain/",
        "repro/audit/places.py",
        "repro/cli/audits.py:audit_explain",
    ],
    "signed statements, rebuilders": [
        "repro/audit/statements.py",
        "repro/packing/resign.py",
        "repro/packing/installer/provenance.py",
        "repro/packing/installer/rebuilders.py",
        "repro/packing/installer/statements.py",
        "repro/audit/bundles.py:_examine_statements",
        "repro/audit/challenge.py:_not_rebuilt,_known",
        "repro/audit/claims.py:Rebuild",
        "repro/audit/commands.py:sign,page",
        "repro/packing/commands.py:resign_bundle",
        "repro/packing/pack.py:_check_statements,_brought",
        "repro/packing/verify.py:Rebuilders,keys_of",
        "repro/cli/options.py:Attestations",
        "repro/cli/audits.py:audit_sign",
        "repro/cli/bundles.py:bundle_resign,bundle_page",
    ],
    "bundle.diff": ["repro/packing/difference.py", "repro/cli/bundles.py:bundle_diff"],
    "page that verifies": ["repro/packing/page/"],
    "audit's cross-checks": [
        "repro/audit/labels.py",
        "repro/audit/packages.py",
        "repro/audit/parity.py",
        "repro/audit/rerun.py:FreshPaths",
        "repro/audit/images.py:_examine_probes",
        "repro/audit/verify.py:_examine_folder",
        "repro/audit/compare.py:_was_read,utterances_of",
        "repro/audit/results.py:_examine_agreement,_each_output",
        "repro/audit/times.py:examine_spans,_sustained,_examine_walls,_longer,_examine_model",
        "repro/audit/inputs.py:_examine_demo_corpus",
    ],
    "hostile folders": [
        "repro/base/confined.py",
        "repro/graph/leavings.py",
        "repro/base/foreign.py",
        "repro/engines/closed.py:_disarm_below,_moved,_listed",
        "repro/base/files.py:_remove",
        "stages/formats/source.py:refuse_links",
    ],
    "strict readers": ["repro/base/strict_json.py", "repro/base/typed_json.py"],
    "temporaries with an owner": ["repro/base/temporary.py", "repro/base/temporary_file.py"],
    "advice for system errors": [
        "repro/base/system_errors.py",
        "repro/cli/ending.py:_system_error,_reader_gone,insist_on_streams,_drop_output",
        "repro/base/paths.py:given_path,_why,_results",
        "repro/base/programs.py",
    ],
    "vendor versions and lists": [
        "repro/base/versions.py",
        "repro/machine/vendor_lists.py",
        "repro/run/host_fits.py",
        "repro/machine/npu_smi.py:parse_mapping,with_devices,_unfit",
    ],
    "vendor's error catalogue": ["stages/npu/catalogue.py"],
    "watching while measuring": [
        "repro/machine/watching.py",
        "repro/guide/disturbance.py",
        "repro/record/measuring.py",
        "repro/report/measuring.py",
        "stages/shared/load.py",
        "repro/guide/conditions.py:machine_reasons",
        "repro/audit/times.py:_examine_watched,_examine_all_loops",
        "repro/run/record.py:_while_measuring",
    ],
    "verdict on accuracy alone": [
        "repro/guide/accuracy.py",
        "repro/report/accuracy.py",
        "repro/record/judgement.py:RateCheck,CurveFit,Accuracy",
    ],
    "mutation tool, dead code, contracts": [
        "repro/cli/mutants.py",
        "repro/cli/dead_code.py",
        "repro/cli/checks.py:import_contracts",
        "tasks.py:mutants",
    ],
    "clusters": [
        "repro/cluster/",
        "repro/cli/doctor_cluster.py",
        "repro/graph/made_on.py",
        "repro/run/cluster.py",
        "repro/run/on_node.py",
    ],
    "sweeps": ["repro/sweep/"],
    "farm": ["repro/audit/farm.py", "repro/audit/ledger.py", "repro/cli/audits.py:audit_farm"],
    "images collected": ["repro/images/in_use.py", "repro/run/garbage.py:collect_images", "tasks.py:images_gc"],
    "other hosts": ["repro/cli/hosts.py", "repro/cli/options.py:HostsRun"],
    "goals of the bench": ["repro/bench/goals.py"],
    "system call filter": [
        "repro/engines/seccomp.py",
        "repro/engines/sandbox.py:_system_calls,_system_call_limits",
    ],
    "provenance crate": ["repro/report/crate.py:_materials,_material,_organisation,_stage"],
    "a store that runs share": ["repro/graph/store.py:in_use,alone,_stored,_aside,_keep_newest,_bring_observations"],
    "near misses in data/": ["repro/run/inputs.py:_refuse_near_misses"],
    "one measurement at a time": ["repro/graph/alone.py"],
    "damaged caches and stores": [
        "repro/graph/cache.py:_is_damaged,_remove,_opened,_soon_locked",
        "repro/graph/code.py:drop_snapshots,_is_right",
    ],
    "data digested as it is read": ["repro/graph/sources.py"],
    "unpacked images verified": ["repro/images/unpacked.py", "repro/images/runnable.py"],
    "installed folders compared": [
        "repro/packing/installer/folder.py",
        "repro/packing/installer/settings.py",
        "repro/packing/installer/install.py:_clear_unfinished,_check_disk",
    ],
    "another CANN than the table's": [
        "repro/graph/cann_images.py",
        "repro/machine/cann.py",
        "repro/run/cann_choice.py",
    ],
    "SPDX, model card": [
        "repro/packing/inventory/spdx_json.py",
        "repro/packing/inventory/model_card.py",
        "repro/packing/inventory/facts.py:Metric,ModelCard",
        "repro/packing/inventory/cyclonedx_json.py:_with_cards,_card,_metric,formulas",
    ],
    "signed models": [
        "repro/run/model_signature.py",
        "repro/cli/options.py:ModelSign,ModelVerify",
        "repro/packing/commands.py:sign_a_model,verify_a_model",
        "repro/cli/bundles.py:model_sign,model_verify",
    ],
    "support archive": [
        "repro/cli/support.py",
        "repro/cli/redaction.py",
        "tasks.py:support_bundle",
        "repro/cli/options.py:SupportBundle",
    ],
    "explorer": ["repro/explore/", "repro/cli/options.py:Explore"],
    "redesigned report": [
        "repro/report/confusions.py",
        "repro/report/lanes.py",
        "repro/report/plots.py:_Series,_tolerances,_differences",
        "repro/report/view.py:groups,_judged,_judged_alone",
        "repro/report/parts.py:Group",
    ],
    "own filter banks": [
        "stages/speech/fbank_kernel.py",
        "stages/speech/fbank_arrays.py",
        "stages/speech/tables.py",
        "stages/bench/native.py",
        "repro/bench/features.py:_beside_native",
    ],
    "exact everywhere": [
        "stages/shared/elementary.py",
        "stages/compiled/elementary.py",
        "stages/model/folding.py",
        "stages/formats/onnx_tensors.py",
        "stages/model/kernels/softmax.py",
        "stages/export.py:export_folded,differences,_folded",
    ],
    "loops until a figure": [
        "stages/measure.py:Limit,time_loops,sustained",
        "stages/measure_npu.py:sustained,further_runs,_latency_of_all",
        "repro/run/record.py:sustained",
    ],
}


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def modules(commit: str, *places: str) -> dict[str, str]:
    """The text of every Python file below these places, by path."""
    listed = git("ls-tree", "-r", "--name-only", commit, "--", *places).split()
    return {path: git("show", f"{commit}:{path}") for path in listed if path.endswith(".py")}


def lines_of(text: str, names: set[str]) -> int:
    """The lines of some definitions of a module, decorators included.

    Raises:
        KeyError: one is not there.
    """
    count, left = 0, set(names)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in left:
            left.remove(node.name)
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            count += (node.end_lineno or first) - first + 1
    if left:
        raise KeyError(f"not defined any more: {sorted(left)}")
    return count


def package_of(path: str) -> str:
    """The package that a file of today belongs to, as the table has it."""
    parts = path.split("/")
    return (
        "tasks.py" if len(parts) == 1 else parts[0] if parts[0] == "stages" else parts[1].replace("__init__.py", "base")
    )


def package_before(path: str) -> str:
    """The package of today that a file of BASE belongs to."""
    top, _, rest = path.partition("/")
    return top if top in ("tasks.py", "stages") else MOVED.get(rest) or MOVED[rest.split("/")[0]]


def newly(now: dict[str, str]) -> dict[str, Counter[str]]:
    """Lines of each capability that is new, by package."""
    found: dict[str, Counter[str]] = {}
    for capability, places in NEW.items():
        for place in places:
            path, _, names = place.partition(":")
            inside = [each for each in now if each == path or (path.endswith("/") and each.startswith(path))]
            if not inside:
                raise KeyError(f"not there any more: {path}")
            for each in inside:
                count = lines_of(now[each], set(names.split(","))) if names else now[each].count("\n")
                found.setdefault(package_of(each), Counter())[capability] += count
    return found


def main(commit: str = "HEAD") -> None:
    """Print the table."""
    before, today = Counter[str](), Counter[str]()
    for path, text in modules(BASE, "bundle", "stages", "tasks.py").items():
        before[package_before(path)] += text.count("\n")
    now = modules(commit, "repro", "stages", "tasks.py")
    for path, text in now.items():
        today[package_of(path)] += text.count("\n")
    new = newly(now)
    print(
        "| package | at 75b0fb2 | now, of what both have | difference | new | what is new |\n|---|--:|--:|--:|--:|---|"
    )
    for package in [*sorted(today, key=lambda name: (name in ("stages", "tasks.py"), name)), "all"]:
        chosen = list(today) if package == "all" else [package]
        was = sum(before[each] for each in chosen)
        more = sum((new.get(each, Counter[str]()) for each in chosen), Counter[str]())
        both = sum(today[each] for each in chosen) - sum(more.values())
        what = "" if package == "all" else ", ".join(f"{name} {count:,}" for name, count in more.most_common())
        print(f"| {package} | {was:,} | {both:,} | {both - was:+,} | {sum(more.values()):,} | {what} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
