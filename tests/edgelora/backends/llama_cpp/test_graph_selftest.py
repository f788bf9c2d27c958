"""The start-up self-test notices a library that is laid out otherwise, and the backend then takes the native way."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgelora.backends.kernels import native
from edgelora.backends.kernels.reference import add_delta
from edgelora.backends.llama_cpp import ggml_tensor, graph_selftest, kernel_selftest
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.context import Context
from edgelora.backends.llama_cpp.kernel_selftest import KernelTrial
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.python_hook import PythonHookMethod
from edgelora.core.errors import BackendError
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.lora import GQA
from tests.support.steps import distance, once


@pytest.fixture
def context(installed: Installed) -> Iterator[Context]:
    model = Model.load(installed.base, shape=GQA, progress=None)
    context = Context(model, EXACT, vocab=GQA.vocab)
    yield context
    context.close()
    model.close()


def _shifted() -> type[ctypes.Structure]:
    """A tensor with one more pointer before its name, as a future release might have it."""
    fields = list(ggml_tensor.GgmlTensor._fields_)
    at = [name for name, _ in fields].index("view_src")
    fields.insert(at, ("future", ctypes.c_void_p))
    return type("Shifted", (ctypes.Structure,), {"_fields_": tuple(fields)})


def test_every_module_is_found_once(context: Context) -> None:
    """The addresses of all weights come out, no two the same: every layer's, the embedding's and the head's."""
    weights = graph_selftest.find_weights(context, GQA, max_sequences=EXACT.max_sequences)
    inner = {Target(layer, module) for layer in range(GQA.layers) for module in LINEAR_MODULES}
    assert weights.keys() == inner | {Target(None, module) for module in OUTER_MODULES}
    assert len(set(weights.values())) == len(weights)


def test_one_sequence_is_enough(context: Context) -> None:
    """A backend for a single sequence is tested too."""
    assert graph_selftest.find_weights(context, GQA, max_sequences=1)


def test_the_kv_is_left_empty(context: Context) -> None:
    """The self-test's tokens are gone: the same step runs again from position 0."""
    first = graph_selftest.find_weights(context, GQA, max_sequences=2)
    assert graph_selftest.find_weights(context, GQA, max_sequences=2) == first


def test_another_layout_is_noticed_by_the_first_node(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shifted struct is caught by the first node's name, before any pointer in it is followed."""
    followed: list[int] = []

    def tensor_at(address: int) -> ctypes.Structure:
        followed.append(address)
        return _shifted().from_address(address)

    monkeypatch.setattr(graph_selftest, "tensor_at", tensor_at)
    with pytest.raises(BackendError, match="known layout"):
        graph_selftest.find_weights(context, GQA, max_sequences=2)
    assert len(followed) == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (replace(GQA, layers=GQA.layers + 1), "7 of 23 modules are not in the graph"),
        (replace(GQA, ffn=GQA.ffn + 32), "blk.0.ffn_gate.weight maps 64 to 96"),
    ],
)
def test_another_graph_is_noticed(context: Context, wrong: LlamaShape, reason: str) -> None:
    """Modules missing or of other widths fail the test, by name."""
    with pytest.raises(BackendError, match=reason):
        graph_selftest.find_weights(context, wrong, max_sequences=2)


def test_a_change_that_does_not_reach_the_graph_is_noticed(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are a copy and no view, as on a device's memory, the known delta is missing in the sum."""
    monkeypatch.setattr(graph_selftest, "rows_of", lambda tensor: ggml_tensor.rows_of(tensor).copy())
    with pytest.raises(BackendError, match="a change to a node was lost"):
        graph_selftest.find_weights(context, GQA, max_sequences=2)


def test_failure_falls_back_to_native_with_a_warning(
    installed: Installed, backend: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed self-test costs mixing, not answers: one warning says why, and adapters work as before."""
    monkeypatch.setattr(ggml_tensor.GgmlTensor, "name", b"other")
    with caplog.at_level(logging.WARNING):
        fallback = open_backend(installed)
    warnings = [record for record in caplog.records if record.name.startswith("edgelora.backends")]
    assert len(warnings) == 1 and "known layout" in warnings[0].getMessage()
    assert not fallback.capabilities.mixed_adapters
    fallback.attach(0, fallback.load(installed.paths[0]))
    assert distance(once(fallback, [1, 2, 3], 0), once(backend, [1, 2, 3], 0)) < 5e-5
    fallback.close()


needs_kernel = pytest.mark.skipif(native.library() is None, reason="the native kernel was not built")


@needs_kernel
def test_the_native_callback_is_tried_at_every_module(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own code, in the real graph: nothing is wrong, and what it adds to any one module is looked at."""
    assert context.eval_callback.evaluator is not None
    names: list[str] = []
    visit = KernelTrial.visit
    monkeypatch.setattr(
        KernelTrial, "visit", lambda self, node, **p: (names.append(p["name"]), visit(self, node, **p))[1]
    )
    trial = KernelTrial(context.eval_callback.evaluator)
    weights = graph_selftest.find_weights(context, GQA, max_sequences=2, trial=trial)
    assert trial.problem is None and len(set(names)) == len(weights) == 7 * GQA.layers + 2


@needs_kernel
@pytest.mark.parametrize("wrong", ["refused", "something else"])
def test_a_failed_trial_falls_back_to_numpy_with_a_warning(
    installed: Installed,
    backend: LlamaCppBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    """Where the native code meets a graph it cannot read, or adds what numpy would not, numpy computes the deltas."""
    if wrong == "refused":
        monkeypatch.setattr(kernel_selftest, "native_layout", lambda: replace_type(ggml_tensor.native_layout()))
    else:
        monkeypatch.setattr(kernel_selftest, "add_delta", lambda y, x, groups: add_delta(y, x, [*groups] * 2))
    with caplog.at_level(logging.WARNING):
        fallback = open_backend(installed, replace(EXACT, kernel="auto"))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("edgelora.backends")]
    assert len(warnings) == 1 and wrong in warnings[0] and "numpy" in warnings[0]
    assert fallback.capabilities.mixed_adapters and isinstance(fallback._method, PythonHookMethod)
    fallback.attach(0, fallback.load(installed.paths[0]))
    assert distance(once(fallback, [1, 2, 3], 0), once(backend, [1, 2, 3], 0)) < 5e-5
    fallback.close()


def replace_type(offsets: native.BatchLayout) -> native.BatchLayout:
    """As if a plain matrix had another type."""
    offsets.type_f32 = 99
    return offsets


def test_a_node_of_another_type_is_never_written(context: Context) -> None:
    """Rows that are no plain float32 matrix are refused: half floats would be overwritten with nonsense."""
    memory = (ctypes.c_float * 8)()
    tensor = ggml_tensor.GgmlTensor()
    tensor.ne[:], tensor.nb[:] = (4, 2, 1, 1), (4, 16, 32, 32)
    tensor.data = ctypes.addressof(memory)
    ggml_tensor.rows_of(tensor)[:] = 1.0
    assert list(memory) == [1.0] * 8
    for field, value in (("type", 1), ("data", None)):
        with pytest.raises(BackendError, match="no plain float32 matrix"):
            ggml_tensor.rows_of(_with(tensor, field, value))
    for ne, nb in (((4, 2, 2, 1), (4, 16, 32, 32)), ((4, 2, 1, 1), (8, 16, 32, 32)), ((4, 2, 1, 1), (4, 8, 32, 32))):
        other = _with(tensor, "op", 0)
        other.ne[:], other.nb[:] = ne, nb
        with pytest.raises(BackendError, match="no plain float32 matrix"):
            ggml_tensor.rows_of(other)


def _with(tensor: ggml_tensor.GgmlTensor, field: str, value: object) -> ggml_tensor.GgmlTensor:
    changed = ggml_tensor.GgmlTensor.from_buffer_copy(tensor)
    setattr(changed, field, value)
    return changed
