"""The analysis of traces: numbers worked out by hand and by torch itself, and what no trace is."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections import defaultdict

import pytest

from longline.cli import run_cli
from longline_profiling import analysis, findings, trace

HEAD = {"schemaVersion": 1, "deviceProperties": [], "displayTimeUnit": "ms"}


def op(name, ts, dur, cat="cpu_op", tid=1, **args):
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": args}


def write(path, events, head=None, packed=False):
    text = json.dumps({**(HEAD if head is None else head), "traceEvents": events}, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def analysed(path, capsys, *arguments):
    capsys.readouterr()
    assert run_cli(["profile", "analyze", "--json", *arguments, str(path)]) == 0
    return json.loads(capsys.readouterr().out)


CPU = [
    op("ProfilerStep#7", 1000.0, 100.0, "user_annotation"),
    op("T.data_wait", 1000.0, 30.0, "user_annotation"),
    op("outer", 1030.0, 40.0),
    op("aten::mm", 1035.0, 10.0),
    op("aten::mm", 1050.0, 10.0),
    op("aten::copy_", 1052.0, 4.0),
    op("elsewhere", 1065.0, 15.0, tid=2),
    op("not in the window", 1200.0, 5.0),
    {"ph": "M", "name": "process_name", "args": {"name": "python"}},
    {"ph": "s", "cat": "fwdbwd", "name": "fwdbwd", "ts": 1.0},
    op("ignored", 1000.0, 90.0, "python_function"),
]


def test_own_times_gaps_and_copies_by_hand(tmp_path, capsys):
    found = analysed(write(tmp_path / "t.json", CPU), capsys)
    own = {row["name"]: (row["calls"], row["own_us"], row["total_us"]) for row in found["operators"]}
    assert own == {
        "outer": (1, 20.0, 40.0),
        "aten::mm": (2, 16.0, 20.0),
        "elsewhere": (1, 15.0, 15.0),
        "not in the window": (1, 5.0, 5.0),
        "aten::copy_": (1, 4.0, 4.0),
    }
    assert [row["name"] for row in found["operators"]][:2] == ["outer", "aten::mm"]
    assert found["steps"] == [{"step": 7, "us": 100.0}]
    gaps = found["gaps"]
    assert (gaps["window_us"], gaps["idle_us"], gaps["count"]) == (100.0, 50.0, 2)
    first, second = gaps["largest"]
    assert first == {"us": 30.0, "at_us": 0.0, "step": 7, "inside": "T.data_wait", "before": "the start", "after": "outer"}
    assert (second["us"], second["at_us"], second["inside"], second["before"]) == (20.0, 80.0, None, "elsewhere")
    assert gaps["inside_us"] == {"T.data_wait": 30.0, "nothing that was annotated": 20.0}
    (copies,) = found["copies"]
    assert copies["share"] == pytest.approx(4 / 60)
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert "50 % of the time" in kinds["gap"]["what"]
    assert "dataloader_num_workers" in kinds["gap"]["hint"]
    assert "aten::copy_" in kinds["copy"]["what"]
    assert all(finding["hint"] for finding in found["findings"])


GPU = [
    op("ProfilerStep#1", 0.0, 1000.0, "user_annotation"),
    op("aten::add", 0.0, 5.0),
    *(op("tiny_kernel", 10.0 * place, 4.0, "kernel", tid=7, device=0) for place in range(50)),
    op("gemm", 600.0, 300.0, "kernel", tid=7, device=0),
    op("other stream", 700.0, 50.0, "kernel", tid=8, device=0),
    op("Memcpy HtoD (Pageable -> Device)", 905.0, 45.0, "gpu_memcpy", tid=7, device=0, bytes=4_000_000),
    op("cudaStreamSynchronize", 500.0, 400.0, "cuda_runtime"),
    op("cudaLaunchKernel", 1.0, 2.0, "cuda_runtime"),
]


def test_kernels_of_a_gpu_by_hand(tmp_path, capsys):
    found = analysed(write(tmp_path / "t.json", GPU), capsys)
    assert found["device"] == "gpu"
    kernels = {row["name"]: (row["calls"], row["own_us"]) for row in found["kernels"]}
    assert kernels["gemm"] == (1, 300.0), "the kernel of another stream at the same time is no part of it"
    assert kernels["tiny_kernel"] == (50, 200.0)
    assert found["gaps"]["idle_us"] == pytest.approx(1000 - 200 - 300 - 45)
    assert found["copied_bytes"] == {"Memcpy HtoD (Pageable -> Device)": 4_000_000}
    (small,) = found["small"]
    assert (small["name"], small["calls"], small["mean_us"]) == ("tiny_kernel", 50, 4.0)
    assert found["waits"] == {"cudaStreamSynchronize": {"calls": 1, "us": 400.0}}
    hints = {finding["kind"]: finding["hint"] for finding in found["findings"]}
    assert set(hints) == {"operator", "gap", "copy", "small", "wait"}
    assert "pin" in hints["copy"]
    assert "torch_compile" in hints["small"]


def test_streams_side_by_side_are_not_nested(tmp_path, capsys):
    """Kernels of two streams overlap without one being inside the other."""
    events = [op("a", 0.0, 10.0, "kernel", tid=7, device=0), op("b", 5.0, 10.0, "kernel", tid=8, device=0)]
    found = analysed(write(tmp_path / "t.json", events), capsys)
    assert {row["name"]: row["own_us"] for row in found["kernels"]} == {"a": 10.0, "b": 10.0}
    assert (found["gaps"]["window_us"], found["gaps"]["idle_us"]) == (15.0, 0.0)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A trace of torch.profiler, and its own sums of it."""
    import torch
    from torch.profiler import profile, record_function

    folder = tmp_path_factory.mktemp("real")
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    with profile() as profiler:
        for step in (1, 2):
            with record_function(f"ProfilerStep#{step}"):
                model(torch.randn(32, 64).t().contiguous().t()).double().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    return folder / "trace.json", profiler.key_averages()


def test_sums_are_those_of_torch(real):
    path, averages = real
    mine = {operator.name: operator for operator in analysis.analyse(analysis.collect(trace.events(path))).operators}
    theirs = {event.key: event for event in averages if event.key in mine}
    assert len(theirs) > 20
    assert set(mine) == set(theirs)
    assert sum(mine[name].calls == event.count for name, event in theirs.items()) > len(mine) / 2
    for name, event in theirs.items():
        assert mine[name].calls >= event.count, "torch leaves out an operator that only calls its namesake"
        assert mine[name].own == pytest.approx(event.self_cpu_time_total, abs=0.01 * event.count + 0.01)
    assert {"aten::_to_copy", "aten::copy_", "aten::contiguous"} <= set(mine)


def test_the_report_shows_every_part(real, capsys):
    path, _ = real
    capsys.readouterr()
    assert run_cli(["profile", "analyze", "--top", "3", str(path)]) == 0
    text = capsys.readouterr().out
    parts = ("step 1 to 2", "operators of the CPU", "gaps: no operator runs for", "copies", "small frequent", "what stands out")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("hint: ") == text.count("\n1. ") + sum(text.count(f"\n{number}. ") for number in range(2, 9))


def test_torch_is_not_imported(real):
    path, _ = real
    code = (
        "import sys\nfrom longline.cli import run_cli\n"
        f"assert run_cli(['profile', 'analyze', {str(path)!r}]) == 0\n"
        "sys.stderr.write(str([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]"


def test_bare_lists_and_gzip_are_read(tmp_path, capsys):
    whole = analysed(write(tmp_path / "a.json", CPU), capsys)
    packed = analysed(write(tmp_path / "b.json.gz", CPU, packed=True), capsys)
    (tmp_path / "c.json").write_text(json.dumps(CPU))
    bare = analysed(tmp_path / "c.json", capsys)
    assert whole["operators"] == packed["operators"] == bare["operators"]


def test_the_key_may_stand_behind_a_long_head(tmp_path, capsys):
    head = {**HEAD, "deviceProperties": ["x" * 1000] * 3000, "note": 'the word "traceEvents" in a text'}
    found = analysed(write(tmp_path / "t.json", CPU, head), capsys)
    assert found["events"] == len(CPU)


def test_events_are_cut_nowhere_by_chunks(tmp_path):
    path = write(tmp_path / "t.json", CPU * 20)
    whole = list(trace.events(path))
    for size in (1, 7, 64, 1000):
        assert list(trace.events(path, size)) == whole == CPU * 20


def test_memory_does_not_grow_with_the_text(tmp_path):
    path = tmp_path / "big.json.gz"
    event = json.dumps(op("aten::add", 1.0, 1.0, stack="x" * 2000))
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.write('{"traceEvents": [' + ",\n".join([event] * 20_000) + "]}")
    tracemalloc.start()
    found = analysis.collect(trace.events(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count == 20_000
    assert peak < 12e6, f"{peak / 1e6:.1f} MB for 42 MB of text"


def broken(tmp_path):
    good = json.dumps({**HEAD, "traceEvents": CPU}).encode()
    packed = gzip.compress(good)
    middle = good.index(b"aten::copy_")
    return {
        "missing": (None, "there is no"),
        "empty": (b"", "is empty"),
        "blank": (b"  \n", "is empty"),
        "empty gzip": (gzip.compress(b""), "is empty"),
        "text": (b"hello", "is no trace"),
        "other json": (b'{"a": 1}', "is no trace"),
        "cut": (good[: len(good) // 2], "is cut off after"),
        "cut behind an event": (good[:-2], f"is cut off after {len(CPU)} events"),
        "cut gzip": (packed[: len(packed) // 2], "is cut off or damaged"),
        "damaged gzip": (packed[:30] + b"\0" * 20 + packed[50:], "damaged"),
        "damaged": (good[:middle] + b'"}}}}{{' + good[middle:], "is "),
        "no events": (b'{"traceEvents": []}', "holds no operator"),
        "no operators": (json.dumps({"traceEvents": CPU[:2]}).encode(), "holds no operator"),
        "numbers": (b"[1, 2, 3]", "holds no operator"),
        "binary": (bytes(range(256)), "is no trace"),
    }


@pytest.mark.parametrize("kind", broken(None))
def test_what_is_no_trace_is_named(kind, tmp_path, capsys):
    content, said = broken(tmp_path)[kind]
    path = tmp_path / "trace.json"
    if content is not None:
        path.write_bytes(content)
    assert run_cli(["profile", "analyze", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert str(path) in error
    assert "Traceback" not in error


def test_a_run_without_a_trace_says_how_to_record_one(tmp_path, capsys):
    assert run_cli(["profile", "analyze", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} holds no trace" in error
    assert "steps: {start: 3, count: 5}" in error


def test_of_several_traces_the_newest_is_taken_and_ranks_can_be_chosen(tmp_path, capsys):
    folder = tmp_path / "profile"
    folder.mkdir()
    for number, name in enumerate(("rank0-steps-1-2", "rank0-steps-5-6", "rank1-steps-5-6")):
        write(folder / f"trace-{name}.json.gz", CPU[: 4 + number], packed=True)
    for age, name in ((500, "rank0-steps-1-2"), (2, "rank0-steps-5-6"), (1, "rank1-steps-5-6")):
        path = folder / f"trace-{name}.json.gz"
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert analysed(tmp_path, capsys)["trace"].endswith("rank0-steps-5-6.json.gz")
    assert analysed(tmp_path, capsys, "--rank", "1")["trace"].endswith("rank1-steps-5-6.json.gz")
    assert run_cli(["profile", "analyze", "--rank", "2", str(tmp_path)]) == 2
    assert "no trace of rank 2" in capsys.readouterr().err


def test_every_hint_answers_a_real_name():
    names = {
        "aten::_scaled_dot_product_flash_attention": "attention",
        "aten::_log_softmax": "vocabulary",
        "aten::_foreach_addcdiv_": "optimizer",
        "aten::item": "number",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL": "ranks",
        "aten::copy_": "copies",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn": "matrix",
        "aten::addmm": "matrix",
        "aten::embedding_dense_backward": "embedding",
        "aten::cumsum": "with_stack",
    }
    said = defaultdict(str, {name: findings.hint_of(name) for name in names})
    assert all(word in said[name] for name, word in names.items()), said
