"""The hook in native code: no Python per node, the adapters' own dtypes, and every refusal of the Python hook."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora.backends.base import Chunk
from edgelora.backends.kernels import native
from edgelora.backends.kernels.evaluator import Evaluator
from edgelora.backends.kernels.reference import Factors, Group, add_delta
from edgelora.backends.llama_cpp import ggml_tensor
from edgelora.backends.llama_cpp.adapter import LoadedLora
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.eval_callback import EvalCallback
from edgelora.backends.llama_cpp.lora_method import Share, StepShares
from edgelora.backends.llama_cpp.native_hook import NativeHookMethod
from edgelora.backends.llama_cpp.python_hook import PythonHookMethod
from edgelora.core.errors import BackendError
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import BY_GGUF
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, attached, open_backend
from tests.edgelora.backends.llama_cpp.test_graph_nodes import Node, product
from tests.support.lora import GQA
from tests.support.steps import Lane, distance, generate, once
from tests.support.uses import applied

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernel was not built")

PROMPT = [5, 9, 200, 31, 7]
TARGETS = [Target(0, BY_GGUF[name]) for name in ("attn_q", "attn_v")]


def test_no_python_runs_in_a_step(native_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the ask phase nor a delta enters Python, with an adapter or without."""

    def entered(*_: object) -> bool:
        raise AssertionError

    eval_callback = native_backend._context.eval_callback
    monkeypatch.setattr(eval_callback, "_watcher", type("Watcher", (), {"wants": entered, "visit": entered})())
    once(native_backend, PROMPT, 0)
    once(native_backend, PROMPT, None)
    assert eval_callback._error is None


@pytest.mark.parametrize("threads", [1, 2])
def test_it_agrees_with_numpy(installed: Installed, threads: int) -> None:
    """Same tokens, and logits that differ by rounding alone, for every adapter and a mixed batch."""
    lanes = []
    for kernel in ("numpy", "native"):
        backend = open_backend(installed, replace(EXACT, kernel=kernel, threads=threads))
        for slot, path in enumerate(installed.paths):
            backend.attach(slot, backend.load(path))
        mixed = [Lane(n, slot, list(PROMPT)) for n, slot in enumerate((3, None, 1, 0, 2))]
        generate(backend, mixed, steps=6)
        lanes.append(mixed)
        backend.close()
    for left, right in zip(*lanes, strict=True):
        assert left.tokens == right.tokens
        assert all(distance(*pair) < 5e-6 for pair in zip(left.history, right.history, strict=True))


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_halves_stay_halves(native_backend: LlamaCppBackend, installed: Installed, dtype: type) -> None:
    """float16 and bfloat16 factors take half the memory and give what their widened values give."""
    wide = native_backend.load(installed.paths[0])
    assert isinstance(wide, LoadedLora)

    def halved(values: np.ndarray) -> np.ndarray:
        return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype is np.uint16 else values.astype(dtype)

    half = {target: Factors(halved(pair.a), halved(pair.b)) for target, pair in wide.factors.items()}
    loaded = LoadedLora(Path("half"), half)
    assert 2 * loaded.nbytes == wide.nbytes
    again = LoadedLora(
        Path("wide"),
        {target: Factors(_wide(pair.a), _wide(pair.b)) for target, pair in half.items()},
    )
    method = native_backend._method
    assert isinstance(method, NativeHookMethod)
    logits = []
    for adapter in (loaded, again):
        native_backend.detach(0)
        native_backend.attach(0, method.bind(adapter))
        logits.append(once(native_backend, PROMPT, 0))
    assert np.array_equal(*logits)


def _wide(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values.astype(np.float32)


class Graph:
    """A compiled hook over nodes of our own making: two modules with made-up weights."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.y = rng.standard_normal((5, 12)).astype(np.float32)
        self.x = rng.standard_normal((5, 8)).astype(np.float32)
        self.nodes = [product(self.y.copy(), self.x), product(self.y.copy(), self.x)]
        self.arrays = [self.y.copy() for _ in self.nodes]
        for node, array in zip(self.nodes, self.arrays, strict=True):
            node.tensor.data = array.ctypes.data
        self.evaluator = Evaluator(native.CALLBACK(lambda *_: False))
        weights = {target: ctypes.addressof(node.weight) for target, node in zip(TARGETS, self.nodes, strict=True)}
        self.method = NativeHookMethod(self.evaluator, GQA, weights, threads=lambda rows: 1 if rows == 1 else 2)
        a, b = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((3, 12)).astype(np.float32)
        self.factors = Factors(a, b)
        self.method.attach(0, self.method.bind(LoadedLora(Path("made-up"), dict.fromkeys(TARGETS, self.factors))))

    def evaluate(self, node: Node, *, ask: bool) -> bool:
        callback = native.CALLBACK(self.evaluator.address)
        return bool(callback(node.address, ask, self.evaluator.user))

    def run(self, *nodes: Node, rows: int = 5, outputs: int = 2, shares: tuple[Share, ...] = ()) -> int:
        """A step whose graph has these nodes; the graph ends where the callback says so, and reports success."""
        shares = shares or (Share(0, (1, rows), (1, outputs)),)

        def decode() -> int:
            for node in nodes:
                if self.evaluate(node, ask=True) and not self.evaluate(node, ask=False):
                    break
            return 0

        return self.method.run(StepShares(shares, rows, outputs), decode)


@pytest.fixture
def graph() -> Iterator[Graph]:
    yield Graph()


def test_a_made_up_graph(graph: Graph) -> None:
    """Each product gets the delta in its adapter's rows alone, and other nodes are never asked for."""
    expected = graph.y.copy()
    add_delta(expected, graph.x, [Group(1, 5, graph.factors)])
    other = product(graph.y.copy(), graph.x)
    assert graph.run(graph.nodes[0], other, graph.nodes[1]) == 0
    assert all(np.allclose(array, expected, atol=1e-5) for array in graph.arrays)
    assert not graph.evaluate(graph.nodes[0], ask=True)


def test_output_rows_have_their_own_range(graph: Graph) -> None:
    """A node with as many rows as the step has outputs is one of output rows."""
    for node in graph.nodes:
        node.tensor.ne[1] = node.input.ne[1] = 2
    expected = graph.y.copy()
    add_delta(expected, graph.x, [Group(1, 2, graph.factors)])
    graph.run(*graph.nodes)
    assert np.allclose(graph.arrays[0], expected, atol=1e-5)


@pytest.mark.parametrize("rows", [5, 2])
def test_weights_gates_and_overlaps(graph: Graph, rows: int) -> None:
    """Several adapters on one row, each row with its own weight: among all rows, and among output rows."""
    rng = np.random.default_rng(4)
    other = Factors(rng.standard_normal((2, 8)).astype(np.float16), rng.standard_normal((2, 12)).astype(np.float16))
    graph.method.attach(1, graph.method.bind(LoadedLora(Path("other"), {TARGETS[0]: other})))
    for node in graph.nodes:
        node.tensor.ne[1] = node.input.ne[1] = rows
    shares = (
        Share(0, (0, 4), (0, 2), 1.0, (0.5, -1.0, 0.25, 2.0), (-1.0, 2.0)),
        Share(1, (3, 5), (1, 2), 0.75),
    )
    gate = np.array(shares[0].gate if rows == 5 else shares[0].output_gate, np.float32)
    (first, stop), (from_other, to_other) = ((0, 4), (3, 5)) if rows == 5 else ((0, 2), (1, 2))
    groups = [Group(first, stop, graph.factors, 1.0, gate), Group(from_other, to_other, other, 0.75)]
    expected = [graph.y.copy(), graph.y.copy()]
    add_delta(expected[0], graph.x, groups)
    add_delta(expected[1], graph.x, groups[:1])
    assert graph.run(*graph.nodes, shares=shares) == 0
    assert all(np.allclose(*pair, atol=1e-5) for pair in zip(graph.arrays, expected, strict=True))
    graph.run(*graph.nodes)  # the gates of a step are not those of the next
    add_delta(expected[0], graph.x, [Group(1, 5 if rows == 5 else 2, graph.factors)])
    assert np.allclose(graph.arrays[0], expected[0], atol=1e-5)


def test_a_module_that_does_not_come_is_an_error(graph: Graph) -> None:
    """An adapter is never applied in part."""
    with pytest.raises(BackendError, match="passed by 1 of the 2 modules") as caught:
        graph.run(graph.nodes[0])
    assert caught.value.code == "graph_incomplete"


def test_a_weight_used_twice_is_an_error(graph: Graph) -> None:
    """The second use would get a second delta."""
    with pytest.raises(BackendError, match="'Qcur-0' uses its weight a second time"):
        graph.run(graph.nodes[0], graph.nodes[0])


@pytest.mark.parametrize("field", ["type", "data", "op"])
@pytest.mark.parametrize("side", ["tensor", "input"])
def test_a_node_that_is_no_plain_product_is_not_touched(graph: Graph, side: str, field: str) -> None:
    """Other dtypes, no memory and other operations are refused before anything is written."""
    if (side, field) == ("input", "op"):
        graph.nodes[0].tensor.src[1] = None
    else:
        setattr(getattr(graph.nodes[0], side), field, None if field == "data" else ggml_tensor.OP_ADD)
    with pytest.raises(BackendError, match="no product of plain float32") as caught:
        graph.run(*graph.nodes)
    assert caught.value.code == "graph_layout" and np.array_equal(graph.arrays[0], graph.y)


def test_rows_of_another_number_are_an_error(graph: Graph) -> None:
    """Neither all rows nor the output rows: nobody knows whose they are."""
    graph.nodes[0].tensor.ne[1] = graph.nodes[0].input.ne[1] = 3
    with pytest.raises(BackendError, match="has 3 rows") as caught:
        graph.run(*graph.nodes)
    assert caught.value.code == "graph_rows" and np.array_equal(graph.arrays[0], graph.y)


def test_other_widths_than_the_factors_are_an_error(graph: Graph) -> None:
    """Reading past the factors' memory must not be possible."""
    graph.nodes[0].tensor.ne[0] = 11
    with pytest.raises(BackendError, match="other widths"):
        graph.run(*graph.nodes)
    assert np.array_equal(graph.arrays[0], graph.y)


def test_an_error_ends_the_step_alone(native_backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the native code noticed comes out of step(), and after a clear all goes on as before."""
    before = once(native_backend, PROMPT, 0)
    method = native_backend._method
    assert isinstance(method, NativeHookMethod)
    right = method._slots[0]
    wrong = {module: Factors(pair.a[:, 1:].copy(), pair.b) for module, pair in right.factors.items()}
    with monkeypatch.context() as patch:
        patch.setitem(method._slots, 0, method._evaluator.bind(wrong))
        with pytest.raises(BackendError, match="other widths"):
            once(native_backend, PROMPT, 0)
    with pytest.raises(BackendError, match="undefined"):
        native_backend.step([Chunk(sequence=0, position=0, tokens=(1,), adapters=applied(0), logits=True)])
    native_backend.clear(0)
    assert np.array_equal(once(native_backend, PROMPT, 0), before)


def test_an_error_in_a_watcher_passes_through_native_code(native_backend: LlamaCppBackend) -> None:
    """A Python watcher behind the native callback raises as one without it."""

    class Broken:
        def wants(self, node: int) -> bool:
            return True

        def visit(self, node: int) -> None:
            raise KeyboardInterrupt

    chunk = Chunk(sequence=1, position=0, tokens=(1,), adapters=(), logits=True)
    context = native_backend._context
    assert isinstance(context.eval_callback, EvalCallback)
    with pytest.raises(KeyboardInterrupt):
        context.eval_callback.watch(Broken(), lambda: context.decode([chunk]))
    context.clear(1)
    assert distance(once(native_backend, PROMPT, 0), once(native_backend, PROMPT, None)) > 0.02


def test_without_the_library_numpy_is_used(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package built without a compiler works; only who insists on the native kernel is told."""
    monkeypatch.setattr(native, "library", lambda: None)
    backend = open_backend(installed, EXACT)
    assert isinstance(backend._method, PythonHookMethod)
    backend.close()
    with pytest.raises(BackendError, match="was not built") as caught:
        open_backend(installed, replace(EXACT, kernel="native"))
    assert caught.value.code == "kernel_missing" and caught.value.remedy


def test_threads_follow_the_step(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes as many threads as llama.cpp does: one number for a single row, another for more, and whatever
    they are set to; adapters that were attached before stay attached."""
    if native.library() is None:
        pytest.skip("the native kernel was not built")
    used: list[int] = []
    register = Evaluator._register

    def spied(evaluator: Evaluator, threads: int) -> None:
        used.append(threads)
        register(evaluator, threads)

    monkeypatch.setattr(Evaluator, "_register", spied)
    for backend in attached(installed, replace(EXACT, kernel="native", threads=1, batch_threads=2)):
        used.clear()  # attaching tries an adapter out
        many, one = once(backend, [1, 2, 3], 0), once(backend, [1], 0)
        once(backend, [1], None)
        assert used == [2, 1]
        backend.set_threads(2, 2)
        assert distance(once(backend, [1], 0), one) < 1e-5 and distance(once(backend, [1, 2, 3], 0), many) < 1e-5
        assert used == [2, 1, 2]
