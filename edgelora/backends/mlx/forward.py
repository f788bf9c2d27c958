"""One forward pass of a Llama over the rows of a step, whoever's they are. Owns no state.

Everything but attention is computed for all rows at once; attention sequence by sequence, over its own keys and values:
so nothing is padded, and a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from edgelora.backends.mlx.kv import Kv
from edgelora.backends.mlx.layout import Segment, StepLayout
from edgelora.backends.mlx.matrix import Array
from edgelora.backends.mlx.model import Base
from edgelora.backends.mlx.slots import Slots
from edgelora_converters.lora.adapter import Target
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD

_Q, _K, _V, _O = (BY_HF[f"self_attn.{name}_proj"] for name in "qkvo")
_GATE, _UP, _DOWN = (BY_HF[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))


def forward(base: Base, slots: Slots, kv: Kv, layout: StepLayout) -> Array:
    """Logits [outputs, vocab] in float32, not evaluated; None where none are wanted. The step's keys and values are in
    `kv`, to be evaluated with them."""
    return _Pass(base, slots, kv, layout).logits()


class _Pass:
    def __init__(self, base: Base, slots: Slots, kv: Kv, layout: StepLayout) -> None:
        self._base = base
        self._slots = slots
        self._kv = kv
        self._layout = layout
        self._positions = mx.array(layout.positions, mx.int32)

    def logits(self) -> Array:
        base, layout = self._base, self._layout
        tokens = mx.array(layout.tokens, mx.int32)
        h = base.embedding.lookup(tokens).astype(base.dtype)
        h = self._slots.changed(Target(None, EMBEDDING), h, tokens, layout.segments)
        segments: Sequence[Segment] = layout.segments
        for number, layer in enumerate(base.layers):
            attended = self._attend(number, self._norm(h, layer.before_attention))
            if number == base.shape.layers - 1:  # Behind it only the rows count whose logits are wanted.
                if not layout.outputs:
                    return None
                rows, segments = mx.array(layout.outputs, mx.int32), layout.output_segments
                h, attended = h[rows], attended[rows]
            h = h + self._product(Target(number, _O), attended, segments)
            h = h + self._mlp(number, self._norm(h, layer.before_mlp), segments)
        return self._product(Target(None, HEAD), self._norm(h, base.norm), segments).astype(mx.float32)

    def _attend(self, layer: int, x: Array) -> Array:
        """[n, hidden] to [n, q_width], before o_proj."""
        segments = self._layout.segments
        q, k, v = (self._heads(self._product(Target(layer, module), x, segments)) for module in (_Q, _K, _V))
        q, k = self._turned(q), self._turned(k)
        parts = [self._own(layer, number, q, k, v) for number in range(len(self._layout.pieces))]
        joined = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return joined.reshape(len(self._layout.tokens), -1)

    def _own(self, layer: int, number: int, q: Array, k: Array, v: Array) -> Array:
        """One sequence's attention, [rows, heads, 1, head_dim] as its rows stand in q."""
        piece = self._layout.pieces[number]
        rows = slice(piece.start, piece.stop)
        # A row is a batch of its own outside attention, and a token of its sequence's in here.
        own_q, own_k, own_v = (array[rows].swapaxes(0, 2) for array in (q, k, v))
        keys, values = self._kv.write(piece.sequence, layer, piece.position, own_k, own_v)
        mask = None if piece.stop - piece.start == 1 else "causal"
        scale = self._base.shape.head_dim**-0.5
        attended = mx.fast.scaled_dot_product_attention(own_q, keys, values, scale=scale, mask=mask)
        return attended.swapaxes(0, 2)

    def _heads(self, x: Array) -> Array:
        return x.reshape(x.shape[0], -1, 1, self._base.shape.head_dim)

    def _turned(self, x: Array) -> Array:
        """Rotary embedding: each row by its own position."""
        return mx.fast.rope(
            x,
            self._base.shape.head_dim,
            traditional=False,
            base=None,
            scale=1.0,
            offset=self._positions,
            freqs=self._base.frequencies,
        )

    def _mlp(self, layer: int, x: Array, segments: Sequence[Segment]) -> Array:
        gate, up = (self._product(Target(layer, module), x, segments) for module in (_GATE, _UP))
        return self._product(Target(layer, _DOWN), gate * mx.sigmoid(gate) * up, segments)

    def _product(self, target: Target, x: Array, segments: Sequence[Segment]) -> Array:
        return self._slots.changed(target, self._base.matrix(target).product(x), x, segments)

    def _norm(self, x: Array, weight: Array) -> Array:
        return mx.fast.rms_norm(x, weight, self._base.epsilon)
