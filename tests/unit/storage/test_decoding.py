"""Threads that are the first to read something of a kind do not crash the process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import shoal

SOURCE = Path(shoal.__file__).parent
FORKS = 60
PLAIN = {"bool", "dict", "float", "int", "list", "object", "str", "tuple"}
SCALARS = ("_TEXTS", "_TYPES")
"""Tables of types that have no parts."""

FIRST = f"""
import collections, os, sys, threading
from shoal.batch.spec import load as load_job
from shoal.errors import ShoalError
from shoal.requests.loading import load as load_serving
from shoal.serving.sinks import load_sink
from shoal.table import block, manifest

sys.setswitchinterval(0.0005)
READ = [
    lambda: load_serving({{"store": "durable", "lookup": {{"source": "s", "keys": ["k"], "features": ["f"]}}}}),
    lambda: load_sink({{"kind": "parquet_sink", "folder": "/"}}),
    lambda: load_job({{"fleet": "f", "input": ["a.parquet"], "output": "b"}}),
    lambda: manifest.decode(b'{{"format": %d}}' % manifest.FORMAT),
    lambda: block.read_header({{block.METADATA_KEY: b'{{"format": %d}}' % block.FORMAT}}),
]

def read(gate, turn):
    gate.wait()
    for one in READ[turn:] + READ[:turn]:
        try:
            one()
        except ShoalError:
            pass

def child(turns=(0, 0, 3, 4)):
    gate = threading.Barrier(len(turns))
    threads = [threading.Thread(target=read, args=(gate, turn)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)

ends = collections.Counter()
for _ in range({FORKS}):
    pid = os.fork()
    if not pid:
        child()
    ends[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
print(dict(ends))
"""


def test_the_first_readers_may_be_several_threads() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({0: FORKS}), done.stderr


def _read_in_functions(tree: ast.AST) -> Iterator[ast.expr]:
    """What calls of msgspec within functions read values as."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for call in [node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func)
        if not name.startswith(("msgspec.", "inspect.type_info")):
            continue
        yield from [one.value for one in call.keywords if one.arg == "type"]
        place = {"convert": 1, "Decoder": 0, "type_info": 0}.get(name.rpartition(".")[2])
        if place is not None:
            yield from call.args[place : place + 1]


def _is_safe(kind: ast.expr) -> bool:
    """Whether it has no struct in it, or was seen to before."""
    if isinstance(kind, ast.Call):
        return ast.unparse(kind.func) == "decodable"
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) in SCALARS:
        return True
    return {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)} <= PLAIN


def test_what_functions_read_is_seen_to_before() -> None:
    unsafe = [
        f"{path.relative_to(SOURCE)}: {ast.unparse(kind)}"
        for path in SOURCE.rglob("*.py")
        for kind in _read_in_functions(ast.parse(path.read_text()))
        if path.name != "decoding.py" and not _is_safe(kind)
    ]
    assert not unsafe, "read these as decodable(...); shoal.storage.decoding says why"
