"""The panel of molecules: what it plans, how it judges, that it goes on, and a small one from end to end."""

import json
import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from orbitrec.errors import InputError

PANEL = Path(__file__).resolve().parents[2] / "benchmarks" / "panel"
sys.path.insert(0, str(PANEL))

import confidence  # noqa: E402
import particles  # noqa: E402
import rates  # noqa: E402
import record  # noqa: E402
from plan import Half, Ice, Plan  # noqa: E402

FILE = PANEL / "panel.toml"
SMALL = """
right = 2.0
fine = 1.3
[halves]
tuning = ["blob"]
"held out" = ["rod"]
[seeds]
tuning = [1]
"held out" = [2, 1]
[conditions.easy]
set = { n = 60, snr = 1.0, junk = 0.3 }
[conditions.hard]
set = { n = 60, snr = 0.1 }
maps = ["rod"]
seeds = [5]
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def a_record(found, known=10.0, reason=None, **facts):
    got = {"condition": "clean", "half": "tuning", "map": "m", "seed": 1, "commit": "a1", "known_fsc05_A": known}
    got |= {"seconds": 60.0, "processor_s": 50.0, "peak_GiB": 1.5, "reason": reason}
    return got | ({} if reason else {"fsc05_A": found, "checks": []}) | facts


def test_halves_are_every_other_map_by_name(shared_data):
    names = sorted(path.stem for path in (shared_data / "panel").glob("*.mrc"))
    halves = Plan.read(FILE).halves
    assert [name for name in names if halves[name] is Half.TUNING] == names[::2]
    assert [name for name in names if halves[name] is Half.HELD_OUT] == names[1::2]
    assert len(halves) == len(names)


def test_rare_conditions_take_every_third_map_by_name():
    plan = Plan.read(FILE)
    for name in ("belt", "cone", "ice"):
        assert sorted(plan.conditions[name].maps) == sorted(plan.halves)[::3]


def test_the_whole_panel():
    trials = Plan.read(FILE).trials()
    assert len(trials) == len({trial.name for trial in trials}) == 4 * (14 + 7) + 3 * 5
    second = [trial for trial in trials if trial.seed == 2]
    assert {trial.half for trial in second} == {Half.HELD_OUT}
    assert trials[-len(second) :] == second  # an early stop has first seeds of everything


def test_parts_of_a_panel(small):
    plan = Plan.read(small)
    assert [t.name for t in plan.trials()] == ["blob-easy-1", "rod-easy-1", "rod-easy-2", "rod-hard-5"]
    assert [t.name for t in plan.trials(maps=["rod"], conditions=["easy"], seeds=[7])] == ["rod-easy-7"]
    assert [t.name for t in plan.trials(half=Half.TUNING)] == ["blob-easy-1"]
    with pytest.raises(InputError, match="no map 'rood'; it has blob, rod"):
        plan.trials(maps=["rood"])
    with pytest.raises(InputError, match="no condition 'eesy'"):
        plan.trials(conditions=["eesy"])
    with pytest.raises(InputError, match="no such trial"):
        plan.trials(maps=["blob"], conditions=["hard"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fine = 1.3", "", "lacks 'fine'"),
        ("fine = 1.3", "fine = ", "cannot be read"),
        ('maps = ["rod"]', 'maps = ["rood"]', "names the map 'rood', which is in no half"),
        ('maps = ["rod"]', 'map = ["rod"]', "unknown entry 'map'"),
        ('maps = ["rod"]', 'ice = { fil = "x" }', "is no panel"),
        ('"held out" = ["rod"]', '"held out" = ["blob", "rod"]', "names a map twice"),
    ],
)
def test_a_panel_that_cannot_be(small, old, new, said):
    small.write_text(SMALL.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        Plan.read(small)


def test_a_mixture_has_the_maps_that_are_next_in_its_half(small):
    maps = '["blob", "bar", "cube"]'
    text = SMALL.replace('["blob"]', maps).replace("snr = 0.1 }", "snr = 0.1 }\nspecies = 2")
    small.write_text(text.replace('maps = ["rod"]', f"maps = {maps}"), encoding="utf-8")
    trials = [trial for trial in Plan.read(small).trials() if trial.condition.name == "hard"]
    assert [(trial.map, trial.others) for trial in trials] == [
        ("bar", ("blob",)),
        ("blob", ("cube",)),
        ("cube", ("bar",)),
    ]
    assert trials[0].condition.settings()["species"] == 2
    assert "species" not in Plan.read(FILE).conditions["clean"].settings()  # records of before are of these settings


def test_interval_is_wilson_s():
    """The closed form, and what it gives where nothing or everything succeeds: z²/(n + z²)."""
    z, n, k = 1.959964, 14, 12
    centre, spread = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * (k * (n - k) / n + z**2 / 4) ** 0.5
    assert rates.interval(k, n) == pytest.approx((centre - spread, centre + spread), abs=1e-6)
    assert rates.interval(n, n) == pytest.approx((n / (n + z**2), 1), abs=1e-6)
    assert rates.interval(0, n) == pytest.approx((0, z**2 / (n + z**2)), abs=1e-6)


def test_right_and_fine_are_by_known_poses():
    right, fine, wrong = a_record(20.0), a_record(13.0), a_record(20.1)
    none = a_record(None, reason="killed by SIGKILL", map="pol2")
    held = a_record(11.0, half="held out")
    (first, second, both) = rates.rows([right, fine, wrong, none, held], 2.0, 1.3)
    assert first[:5] == ("clean", "tuning", "2 of 4", "15 – 85 %", "1 of 4")
    assert first[5:] == ("20.0 (13.0 – 20.1)", "10.0", "60", "50", "1.50")
    assert second[:5] == ("clean", "held out", "1 of 1", "21 – 100 %", "1 of 1")
    assert both[1:3] == ("both", "3 of 5")
    lines = rates.failures([right, none, wrong | {"checks": ["odd"]}], 2.0, 1.3)
    assert lines == [
        "pol2, clean, seed 1: no map: killed by SIGKILL; no warning(s)",
        "m, clean, seed 1: not right: 20.1 Å, from known poses 10.0 Å; 1 warning(s)",
    ]


def test_flags_are_pooled_over_runs_that_have_them():
    flags = {"junk": 30, "junk_flagged": 27, "good": 70, "good_flagged": 7}
    more = {"junk": 10, "junk_flagged": 10, "good": 30, "good_flagged": 0}
    (row,) = rates.rows([a_record(9.0, **flags), a_record(9.0, **more), a_record(9.0)], 2.0, 1.3)
    assert row[-2:] == ("92.5 %", "7.0 %")


def test_documents_say_how_many_runs_and_of_which_code():
    panel = {"right": 2.0, "fine": 1.3, "planned": 9, "runs": [a_record(9.0), a_record(30.0, commit="b2")]}
    text = rates.as_markdown(panel)
    assert "| clean | tuning | 1 of 2 |" in text
    assert text.endswith("2 of 9 runs; 2 commits: a1, b2.")
    assert len({line.count("|") for line in text.split("\n\n")[0].splitlines()}) == 1


def test_outliers_are_those_that_the_run_calls_unlikely(tmp_path):
    file = tmp_path / record.STATISTICS
    assert record.outliers(file, np.zeros(5)) == {}
    probabilities = [1.0, 0.2, 0.49, 0.5, 0.0]
    file.write_text("row,log_likelihood,inlier_probability\n" + "".join(f"1,0.5,{p}\n" for p in probabilities))
    counts = record.outliers(file, np.array([0, 0, -1, -1, -1]))
    assert counts == {"junk": 3, "junk_flagged": 2, "good": 2, "good_flagged": 1}


def test_ice_is_binned_by_its_low_frequencies(tmp_path):
    x = np.arange(24)
    wave = np.cos(2 * np.pi * 3 * x / 24)[None, None] * np.ones((2, 24, 1))
    fast = np.cos(2 * np.pi * 9 * x / 24)[None, :, None]
    with mrcfile.new(tmp_path / "ice.mrcs") as file:
        file.set_data((wave + 0.5 * fast).astype(np.float16))
    small = particles.binned(tmp_path / "ice.mrcs", Ice("ice.mrcs", 2))
    expected = np.cos(2 * np.pi * 3 * np.arange(12) / 12) * 2**0.5
    np.testing.assert_allclose(small, np.broadcast_to(expected, (2, 12, 12)), atol=2e-3)


def test_ice_behind_projections_has_the_snr_that_was_asked(tmp_path):
    generator = np.random.default_rng(1)
    clean = np.zeros((400, 16, 16), np.float32)
    clean[:, 4:12, 4:12] = generator.standard_normal((400, 8, 8)) * particles.NOISELESS**0.5
    with mrcfile.new(tmp_path / "s.mrcs") as file:
        file.set_data(clean)
    patches = generator.standard_normal((40, 24, 24)).astype(np.float32)
    particles.put_ice_behind(tmp_path / "s.mrcs", patches, 0.25, generator)
    with mrcfile.open(tmp_path / "s.mrcs") as file:
        images = file.data.copy()
    outside = np.concatenate([images[:, :4].ravel(), images[:, 12:].ravel()])
    inside = images[:, 4:12, 4:12].ravel()
    # Of N normal numbers the variance is known to sqrt(2/N); crops of the same patch overlap, by four at the most here.
    assert outside.var() == pytest.approx(1, abs=5 * (2 * 10 / outside.size) ** 0.5)
    assert inside.var() - outside.var() == pytest.approx(0.25, abs=5 * (4 * 10 / inside.size) ** 0.5)
    assert len({image[0].tobytes() for image in images}) > 300  # places, turns and mirrors differ


def told(likelihood, right, half):
    """A record of a run whose likelihood alone says whether it is right."""
    witnesses = {"particle_log_likelihood": likelihood, "correlation_beyond_search": 0.1, "starts_agreement": 0.9}
    more = {"search_resolution_A": 15.0, "half_maps_fsc0143_A": None, "scf_star": 0.5}
    return a_record(10.0 if right else 30.0, half=half, **witnesses, **more)


def several(half, seed, count=3000):
    """Runs that are right with the odds (likelihood / 20)³."""
    generator = np.random.default_rng(seed)
    likelihood = np.exp(generator.normal(np.log(20), 0.7, count))
    odds = (likelihood / 20) ** 3
    right = generator.uniform(size=count) < odds / (1 + odds)
    return [told(float(x), bool(y), half) for x, y in zip(likelihood, right, strict=True)]


def test_a_calibration_is_the_odds_that_runs_were_drawn_with(tmp_path):
    panel = {"right": 2.0, "runs": [*several("tuning", 1), *several("held out", 2), a_record(None, reason="killed")]}
    (tmp_path / "panel.json").write_text(json.dumps(panel), encoding="utf-8")
    written = {f"--{name}": tmp_path / f"{name}.out" for name in ("calibration", "json")}
    chart = ["--chart", str(tmp_path / "chart.png")]
    words = [str(word) for pair in written.items() for word in pair]
    assert confidence.main([str(tmp_path / "panel.json"), *words, *chart]) == 0
    found = confidence.Calibration(**json.loads(written["--calibration"].read_text()))
    for likelihood in (10.0, 20.0, 35.0):
        odds = (likelihood / 20) ** 3
        probability = found.probability(confidence.witnesses_of(told(likelihood, True, "tuning")))
        # 3000 runs tell the log odds here to about 0.1, which is at most 0.025 of a probability.
        assert probability == pytest.approx(odds / (1 + odds), abs=4 * 0.025)
    test = json.loads(written["--json"].read_text())["held out"]
    assert test["runs"] == 3000
    # Every bin of the curve is right as often as it says, within four standard errors.
    for point in test["curve"]:
        p, n = point["mean_probability"], point["runs"]
        assert abs(point["right"] / n - p) < 4 * math.sqrt(p * (1 - p) / n) + 0.02
    assert (tmp_path / "chart.png").stat().st_size > 5000


def test_the_score_of_a_test_is_brier_s():
    probability, right = np.array([0.95, 0.95, 0.4, 0.05]), np.array([True, False, True, False])
    found = confidence.tested(probability, right)
    assert found["brier"] == pytest.approx((0.05**2 + 0.95**2 + 0.6**2 + 0.05**2) / 4)
    assert (found["called_right"], found["called_right_and_wrong"], found["right_and_called_so"]) == (2, 1, 1)
    assert [point["runs"] for point in found["curve"]] == [1, 1, 2]


def test_a_half_without_wrong_runs_calibrates_nothing(tmp_path, capsys):
    runs = [told(30.0, True, half) for half in ("tuning", "held out") for _ in range(3)]
    (tmp_path / "panel.json").write_text(json.dumps({"right": 2.0, "runs": runs}), encoding="utf-8")
    assert confidence.main([str(tmp_path / "panel.json")]) == 2
    assert "runs that are wrong" in capsys.readouterr().err


STUB = """
import json, os, shutil, signal, sys, time
from pathlib import Path
seed, run = int(sys.argv[sys.argv.index("--seed") + 1]), Path(sys.argv[sys.argv.index("-o") + 1])
assert sys.argv[1] == "abinitio" and "--truth" not in sys.argv
if seed == 3: print("a traceback"); sys.exit("error: no particles")
if seed == 4: os.kill(os.getpid(), signal.SIGKILL)
if seed == 5: time.sleep(60)
run.mkdir()
if seed == 6: sys.exit(0)
(run / "summary.json").write_text(json.dumps({"checks": ["it looks odd"]}))
shutil.copy("set/truth.mrc" if seed == 1 else "set/known_poses.mrc", run / "initial_model.mrc")
"""

JUDGE = """
import json, sys, mrcfile, numpy as np
found, truth = (mrcfile.read(path).ravel() for path in sys.argv[1:3])
cc = float(np.corrcoef(found, truth)[0, 1])
print(json.dumps(dict(fsc05_A=10 / cc**4, fsc0143_A=8.0, hand=1, cc=cc, fsc=[1.0, cc])))
"""


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "checkout" / "src" / "orbitrec"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STUB)
    return tmp_path / "checkout"


@pytest.mark.parametrize(
    ("seed", "limit_s", "reason"),
    [
        (3, 60, "exit status 1: error: no particles"),
        (4, 60, "killed by SIGKILL"),
        (5, 0.1, "stopped after 2.77778e-05 hours"),
        (6, 60, "no map was written"),
    ],
)
def test_the_reason_of_a_run_without_a_map(checkout, tmp_path, seed, limit_s, reason):
    program = record.Program(checkout, 1, limit_s)
    facts = program.run(tmp_path, seed)
    assert facts["reason"] == reason
    assert facts["seconds"] > 0
    assert facts["peak_GiB"] > 0


def test_a_run_does_not_outlive_the_benchmark(checkout, tmp_path, monkeypatch):
    started, popen = [], record.subprocess.Popen

    def noted(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupted(seconds):
        raise KeyboardInterrupt

    program = record.Program(checkout, 1, 60)
    monkeypatch.setattr(record.subprocess, "Popen", noted)
    monkeypatch.setattr(record.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.run(tmp_path, 5)
    assert started[-1].returncode == -signal.SIGKILL


def test_a_checkout_without_orbitrec(tmp_path):
    with pytest.raises(InputError, match="is no checkout of orbitrec"):
        record.Program(tmp_path, 1, 60)


def test_records_of_other_particles_are_not_taken(small, tmp_path):
    trial = Plan.read(small).trials()[0]
    assert record.recorded(trial, tmp_path) is None
    (tmp_path / trial.name).mkdir()
    (tmp_path / trial.name / record.RECORD).write_text(json.dumps({"settings": trial.condition.settings()}))
    assert record.recorded(trial, tmp_path) is not None
    other = replace(trial, condition=replace(trial.condition, set={"n": 61, "snr": 1.0, "junk": 0.3}))
    with pytest.raises(InputError, match="is of other settings of easy"):
        record.recorded(other, tmp_path)


@pytest.fixture
def shared(shared_data, tmp_path):
    """The tools and CTFs that there are, two maps of 32 px, and a judge that does not align."""
    tools, data = tmp_path / "shared" / "tools", tmp_path / "shared" / "data"
    (data / "panel").mkdir(parents=True)
    tools.mkdir()
    os.symlink(shared_data / "ctf", data / "ctf")
    shutil.copy(shared_data.parent / "tools" / "make_set.py", tools)
    (tools / "judge_map.py").write_text(JUDGE)
    z, y, x = np.mgrid[-16:16, -16:16, -16:16]
    for name, (a, b, c) in {"blob": (3, 4, 5), "rod": (2, 2, 7)}.items():
        with mrcfile.new(data / "panel" / f"{name}.mrc") as file:
            file.set_data(np.exp(-((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)).astype(np.float32))
            file.voxel_size = 4.0
    return tmp_path / "shared"


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_a_small_panel_is_run_judged_and_gone_on_with(small, checkout, shared, tmp_path, capsys):
    import importlib.util

    spec = importlib.util.spec_from_file_location("panel_main", PANEL / "__main__.py")
    panel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(panel)
    output = tmp_path / "out"
    words = ["-o", str(output), "--panel", str(small), "--checkout", str(checkout), "--shared", str(shared)]
    assert panel.main([*words, "--maps", "blob", "--threads", "1"]) == 0
    (found,) = json.loads((output / "panel.json").read_text())["runs"]
    assert found["reason"] is None
    assert found["fsc05_A"] == pytest.approx(10)  # the truth itself
    assert found["known_fsc05_A"] > 10
    assert found["checks"] == ["it looks odd"]
    folder = output / "blob-easy-1"
    good = starfile.read(folder / "set" / "good.star", always_dict=True)["particles"]
    assert len(good) == (np.load(folder / "set" / "class.npy") >= 0).sum() < 60
    assert not (folder / "set" / "particles.mrcs").exists()

    before = (folder / "record.json").stat().st_mtime_ns
    assert panel.main([*words, "--seeds", "1", "3", "--conditions", "easy", "--keep"]) == 0
    assert (folder / "record.json").stat().st_mtime_ns == before  # gone on with, not run again
    runs = json.loads((output / "panel.json").read_text())["runs"]
    assert [(run["map"], run["seed"], run["reason"] is None) for run in runs] == [
        ("blob", 1, True), ("rod", 1, True), ("blob", 3, False), ("rod", 3, False),
    ]  # fmt: skip
    assert (output / "rod-easy-3" / "set" / "particles.mrcs").exists()
    assert "2 of 4" in capsys.readouterr().out  # both halves

    assert panel.main([*words, "--maps", "rod", "--seeds", "9", "--show"]) == 2
    assert "no finished run" in capsys.readouterr().err
