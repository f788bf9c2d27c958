"""A step's rows: sorted by what acts on them, split where something begins, every output its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.backends.base import Applied, Chunk
from edgelora.backends.mlx.layout import Segment, lay_out

acting = st.lists(
    st.builds(Applied, st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, -2.0]), st.integers(0, 12)),
    max_size=3,
    unique_by=lambda a: a.slot,
).map(tuple)


@st.composite
def steps(draw: st.DrawFn) -> list[Chunk]:
    chunks = []
    for sequence in range(draw(st.integers(1, 5))):
        tokens = tuple(draw(st.lists(st.integers(0, 99), min_size=1, max_size=6)))
        wanted = draw(st.integers(0, len(tokens)))
        chunks.append(Chunk(sequence, draw(st.integers(0, 9)), tokens, draw(acting), wanted))
    return chunks


@given(steps())
@settings(deadline=None, max_examples=50)
def test_every_row_is_one_token_with_what_acts_on_it(chunks: list[Chunk]) -> None:
    """Tokens, positions, segments and outputs say the same as the chunks, whatever their order."""
    layout = lay_out(chunks)
    assert sorted(piece.sequence for piece in layout.pieces) == [chunk.sequence for chunk in chunks]
    by_row = [segment.acting for segment in layout.segments for _ in range(segment.start, segment.stop)]
    of_outputs = [segment.acting for segment in layout.output_segments for _ in range(segment.start, segment.stop)]
    assert len(by_row) == len(layout.tokens) == len(layout.positions) and len(of_outputs) == len(layout.outputs)
    for piece in layout.pieces:
        chunk = next(chunk for chunk in chunks if chunk.sequence == piece.sequence)
        assert layout.tokens[piece.start : piece.stop] == chunk.tokens and piece.position == chunk.position
        rows = range(piece.start, piece.stop)
        assert [layout.positions[row] for row in rows] == [chunk.position + n for n in range(len(rows))]
        for row in rows:
            begun = [a for a in chunk.adapters if a.weight and a.start <= layout.positions[row]]
            assert by_row[row] == tuple(sorted((a.slot, a.weight) for a in begun))
        own = layout.wanted[chunk.sequence]
        assert [layout.outputs[n] for n in own] == list(range(piece.stop - chunk.logits, piece.stop))
        assert [of_outputs[n] for n in own] == [by_row[row] for row in range(piece.stop - chunk.logits, piece.stop)]


def test_what_acts_alike_is_one_segment() -> None:
    """However the chunks come, an adapter's rows stand together; an adapter that begins within a chunk splits it."""
    plain, other = (Applied(1),), (Applied(0, 0.5),)
    chunks = [Chunk(0, 0, (1, 2), plain, 1), Chunk(1, 4, (3,), other, 1), Chunk(2, 9, (4,), plain, 1)]
    assert lay_out(chunks).segments == (Segment(0, 1, ((0, 0.5),)), Segment(1, 4, ((1, 1.0),)))
    gated = Chunk(0, 3, (1, 2, 3, 4), (Applied(2, 1.0, start=5),), 1)
    assert lay_out([gated]).segments == (Segment(0, 2, ()), Segment(2, 4, ((2, 1.0),)))
    assert lay_out([gated]).output_segments == (Segment(0, 1, ((2, 1.0),)),)
