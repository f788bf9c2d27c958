/* The two products of a delta, written once over the vector of one instruction set. No include guard: instructions.h
 * includes it once for each set, with these defined:
 *   NAME(x)    the name of a function for this set       TARGET   its function attribute
 *   VEC, W     the vector and its number of floats       ROWS     rows computed side by side
 *   V_ZERO V_SET V_LOAD V_STORE V_FMA V_ADD V_SUB V_MUL V_SUM      V_F16 V_BF16: load and widen W values
 * Every float of a result is summed in the same order however many rows, ranks or columns are computed side by side, so
 * a row in a batch has the bits it has alone. */

TARGET ALWAYS VEC NAME(weights)(const void *p, int64_t at, int type) {
    if (type == LORA_F16) return V_F16((const uint16_t *)p + at);
    if (type == LORA_BF16) return V_BF16((const uint16_t *)p + at);
    return V_LOAD((const float *)p + at);
}

/* products[i, j] = x[i] . a[j] for `rows` <= ROWS rows and `ranks` <= 4 ranks; both constant once inlined. */
TARGET ALWAYS void NAME(tile)(float *products, int64_t rank, const float *x, int64_t x_stride, const void *a, int64_t first,
                              int64_t in, int type, int rows, int ranks) {
    VEC sums[ROWS][4], w[4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < ranks; j++) sums[i][j] = V_ZERO;
    int64_t c = 0;
    for (; c + W <= in; c += W) {
        for (int j = 0; j < ranks; j++) w[j] = NAME(weights)(a, (first + j) * in + c, type);
        if (rows == 1)
            for (int j = 0; j < ranks; j++) AHEAD(a, (first + j + ranks) * in + c, type);
        for (int i = 0; i < rows; i++) {
            VEC v = V_LOAD(x + i * x_stride + c);
            for (int j = 0; j < ranks; j++) sums[i][j] = V_FMA(v, w[j], sums[i][j]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < ranks; j++) {
            float sum = V_SUM(sums[i][j]);
            for (int64_t k = c; k < in; k++) sum += x[i * x_stride + k] * widened(a, (first + j) * in + k, type);
            products[i * rank + first + j] = sum;
        }
}

TARGET ALWAYS void NAME(tile_rows)(float *products, int64_t rank, const float *x, int64_t xs, const void *a, int64_t first,
                                   int64_t in, int type, int rows, int ranks) {
    switch (ranks) {
    case 4: NAME(tile)(products, rank, x, xs, a, first, in, type, rows, 4); break;
    case 3: NAME(tile)(products, rank, x, xs, a, first, in, type, rows, 3); break;
    case 2: NAME(tile)(products, rank, x, xs, a, first, in, type, rows, 2); break;
    default: NAME(tile)(products, rank, x, xs, a, first, in, type, rows, 1); break;
    }
}

TARGET ALWAYS void NAME(down_typed)(float *products, int64_t rank, const float *x, int64_t xs, const void *a, int64_t first,
                                    int64_t in, int type, int rows, int ranks) {
    if (rows == ROWS) {
        NAME(tile_rows)(products, rank, x, xs, a, first, in, type, ROWS, ranks);
        return;
    }
    for (int i = 0; i < rows; i++)
        NAME(tile_rows)(products + i * rank, rank, x + i * xs, xs, a, first, in, type, 1, ranks);
}

/* First product: one tile of up to ROWS rows by up to 4 ranks. */
TARGET static void NAME(down)(float *products, const lora_pair *pair, const float *x, int64_t xs, int64_t first, int rows,
                              int ranks) {
    switch (pair->a_type) {
    case LORA_F16: NAME(down_typed)(products, pair->rank, x, xs, pair->a, first, pair->in, LORA_F16, rows, ranks); break;
    case LORA_BF16: NAME(down_typed)(products, pair->rank, x, xs, pair->a, first, pair->in, LORA_BF16, rows, ranks); break;
    default: NAME(down_typed)(products, pair->rank, x, xs, pair->a, first, pair->in, LORA_F32, rows, ranks); break;
    }
}

/* y[c] += h[0..ranks) . b[.., c] for one row, streaming `ranks` rows of b through memory. */
TARGET ALWAYS void NAME(stream)(float *y, const float *h, const void *b, int64_t first, int64_t out, int64_t from, int64_t to,
                                int type, int ranks) {
    VEC s[4];
    for (int j = 0; j < ranks; j++) s[j] = V_SET(h[first + j]);
    int64_t c = from;
    for (; c + W <= to; c += W) {
        VEC sum = V_LOAD(y + c);
        for (int j = 0; j < ranks; j++) AHEAD(b, (first + j + ranks) * out + c, type);
        for (int j = 0; j < ranks; j++) sum = V_FMA(s[j], NAME(weights)(b, (first + j) * out + c, type), sum);
        V_STORE(y + c, sum);
    }
    for (; c < to; c++)
        for (int j = 0; j < ranks; j++) y[c] += h[first + j] * widened(b, (first + j) * out + c, type);
}

TARGET ALWAYS void NAME(one_row)(float *y, const float *h, const lora_pair *pair, int64_t from, int64_t to, int type) {
    int64_t r = 0;
    for (; r + 4 <= pair->rank; r += 4) NAME(stream)(y, h, pair->b, r, pair->out, from, to, type, 4);
    for (; r < pair->rank; r++) NAME(stream)(y, h, pair->b, r, pair->out, from, to, type, 1);
}

/* One value with its change, where there is a row scale or a bias; `base` is what the base computed there. */
TARGET ALWAYS float NAME(blend_one)(float y, float base, float d, const lora_pair *pair, int64_t c, float share) {
    float change = pair->scale ? pair->scale[c] * (base + d) - base : d;
    return y + share * (change + (pair->bias ? pair->bias[c] : 0.0f));
}

/* `rows` rows by `vectors` vectors of columns from c, all ranks in registers. `plain`: no row scale, no bias, and the
 * shares already in h. */
TARGET ALWAYS void NAME(panel)(float *y, int64_t ys, const float *base, int64_t bs, const float *h, const float *shares,
                               const lora_pair *pair, int64_t c, int type, int rows, int vectors, bool plain) {
    VEC sums[ROWS][2], w[2];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sums[i][v] = plain ? V_LOAD(y + i * ys + c + v * W) : V_ZERO;
    for (int64_t r = 0; r < pair->rank; r++) {
        for (int v = 0; v < vectors; v++) w[v] = NAME(weights)(pair->b, r * pair->out + c + v * W, type);
        for (int i = 0; i < rows; i++) {
            VEC s = V_SET(h[i * pair->rank + r]);
            for (int v = 0; v < vectors; v++) sums[i][v] = V_FMA(s, w[v], sums[i][v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            int64_t at = c + v * W;
            VEC sum = sums[i][v];
            if (!plain) {
                if (pair->scale) {
                    VEC from = V_LOAD(base + i * bs + at);
                    sum = V_SUB(V_MUL(V_LOAD(pair->scale + at), V_ADD(from, sum)), from);
                }
                if (pair->bias) sum = V_ADD(sum, V_LOAD(pair->bias + at));
                sum = V_FMA(V_SET(shares[i]), sum, V_LOAD(y + i * ys + at));
            }
            V_STORE(y + i * ys + at, sum);
        }
}

TARGET ALWAYS void NAME(columns)(float *y, int64_t ys, const float *base, int64_t bs, const float *h, const float *shares,
                                 const lora_pair *pair, int64_t from, int64_t to, int type, int rows, bool plain) {
    int64_t c = from;
    for (; c + 2 * W <= to; c += 2 * W) NAME(panel)(y, ys, base, bs, h, shares, pair, c, type, rows, 2, plain);
    for (; c + W <= to; c += W) NAME(panel)(y, ys, base, bs, h, shares, pair, c, type, rows, 1, plain);
    for (; c < to; c++)
        for (int i = 0; i < rows; i++) {
            float *value = y + i * ys + c, sum = plain ? *value : 0.0f;
            for (int64_t r = 0; r < pair->rank; r++) sum += h[i * pair->rank + r] * widened(pair->b, r * pair->out + c, type);
            *value = plain ? sum : NAME(blend_one)(*value, base[i * bs + c], sum, pair, c, shares[i]);
        }
}

TARGET ALWAYS void NAME(up_typed)(float *y, int64_t ys, const float *base, int64_t bs, const float *h, const float *shares,
                                  const lora_pair *pair, int64_t rows, int64_t from, int64_t to, int type, bool plain) {
    if (rows == 1 && plain) {
        NAME(one_row)(y, h, pair, from, to, type);
        return;
    }
    /* A part of b that stays in the first-level cache while all rows pass by. */
    for (int64_t c = from; c < to; c += PANEL) {
        int64_t end = c + PANEL < to ? c + PANEL : to, i = 0;
        for (; i + ROWS <= rows; i += ROWS)
            NAME(columns)(y + i * ys, ys, base + i * bs, bs, h + i * pair->rank, shares + i, pair, c, end, type, ROWS, plain);
        for (; i < rows; i++)
            NAME(columns)(y + i * ys, ys, base + i * bs, bs, h + i * pair->rank, shares + i, pair, c, end, type, 1, plain);
    }
}

/* Second product: columns from..to of all rows of a group. `base`: those rows as the base computed them; may be y. */
TARGET static void NAME(up)(float *y, int64_t ys, const float *base, int64_t bs, const float *h, const float *shares,
                            const lora_pair *pair, int64_t rows, int64_t from, int64_t to) {
    bool plain = !pair->scale && !pair->bias;
    switch (2 * pair->b_type + plain) {
    case 2 * LORA_F16 + 1: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_F16, true); break;
    case 2 * LORA_F16: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_F16, false); break;
    case 2 * LORA_BF16 + 1: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_BF16, true); break;
    case 2 * LORA_BF16: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_BF16, false); break;
    case 2 * LORA_F32 + 1: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_F32, true); break;
    default: NAME(up_typed)(y, ys, base, bs, h, shares, pair, rows, from, to, LORA_F32, false); break;
    }
}

#undef NAME
#undef TARGET
#undef VEC
#undef W
#undef ROWS
#undef V_ZERO
#undef V_SET
#undef V_LOAD
#undef V_STORE
#undef V_FMA
#undef V_ADD
#undef V_SUB
#undef V_MUL
#undef V_SUM
#undef V_F16
#undef V_BF16
