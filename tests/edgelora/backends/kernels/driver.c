/* The kernel against a plain loop in double, for every instruction set of the machine it runs on; without Python, so
 * that a cross compiler and an emulator are enough to run it for another processor. test_driver.py compiles it.
 *
 * Random shapes, types, groups that overlap, gates, row scales, biases and lookups, one thread and two. Also: a row of a batch has the
 * bits it has alone, and rows of no group keep theirs. Prints what failed and returns 1, or the number of cases.
 */
#include "lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CASES = 120, MOST_GROUPS = 3, RANKS = 18 };

static uint64_t seed = 1;

static uint32_t number(uint32_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

static float real(void) { return (float)((int32_t)number(2001) - 1000) / 500.0f; }

static void *memory(int64_t bytes) {
    void *found = calloc(1, (size_t)bytes + 1);
    if (!found) abort();
    return found;
}

/* The value of one stored weight, written without the kernel's tricks. */
static double value(const void *weights, int64_t at, int type) {
    if (type == LORA_F32) return ((const float *)weights)[at];
    uint16_t bits = ((const uint16_t *)weights)[at];
    int exponent_bits = type == LORA_F16 ? 5 : 8, fraction_bits = 15 - exponent_bits;
    int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    double fraction = (bits & ((1 << fraction_bits) - 1)) / (double)(1 << fraction_bits);
    double size = exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias);
    return bits >> 15 ? -size : size;
}

/* Finite weights of at most about 2, subnormal ones and both zeros among them. */
static void *weights(int64_t count, int type) {
    if (type == LORA_F32) {
        float *all = memory(count * 4);
        for (int64_t n = 0; n < count; n++) all[n] = real();
        return all;
    }
    uint16_t *all = memory(count * 2);
    for (int64_t n = 0; n < count; n++) all[n] = (uint16_t)(number(2) << 15 | number(number(8) ? 0x4000 : 0x0400));
    return all;
}

static float *reals(int64_t count) { return weights(count, LORA_F32); }

typedef struct {
    int64_t rows, in, out, x_stride, y_stride;
    float *x, *y;
    int32_t *tokens; /* NULL where the groups multiply */
    int32_t count;
    lora_group groups[MOST_GROUPS];
    lora_pair pairs[MOST_GROUPS];
} test;

static test make(void) {
    test t = {.rows = 1 + number(19), .in = 1 + number(150), .out = 1 + number(700), .count = 1 + (int32_t)number(MOST_GROUPS)};
    t.x_stride = t.in + number(5);
    t.y_stride = t.out + number(5);
    t.x = reals(t.rows * t.x_stride);
    t.y = reals(t.rows * t.y_stride);
    if (!number(4)) {
        t.tokens = memory(t.rows * 4);
        for (int64_t row = 0; row < t.rows; row++) t.tokens[row] = (int32_t)number((uint32_t)t.in);
    }
    for (int32_t n = 0; n < t.count; n++) {
        lora_pair *pair = &t.pairs[n];
        *pair = (lora_pair){.rank = 1 + number(RANKS), .in = t.in, .out = t.out, .a_type = number(3), .b_type = number(3)};
        pair->lookup = t.tokens != NULL;
        pair->a = weights(pair->rank * t.in, pair->a_type);
        pair->b = weights(pair->rank * t.out, pair->b_type);
        pair->multiplier = number(2) ? 1.0f : real();
        pair->scale = number(4) ? NULL : reals(t.out);
        pair->bias = number(4) ? NULL : reals(t.out);
        lora_group *group = &t.groups[n];
        *group = (lora_group){.start = number((uint32_t)t.rows), .weight = number(2) ? 1.0f : real()};
        group->stop = group->start + 1 + number((uint32_t)(t.rows - group->start));
        group->gate = number(3) ? NULL : reals(group->stop - group->start);
    }
    return t;
}

static void free_test(test *t) {
    for (int32_t n = 0; n < t->count; n++) {
        free((void *)t->pairs[n].a);
        free((void *)t->pairs[n].b);
        free((void *)t->pairs[n].scale);
        free((void *)t->pairs[n].bias);
        free((void *)t->groups[n].gate);
    }
    free(t->tokens);
    free(t->x);
    free(t->y);
}

static float *run(const test *t, int64_t first, int64_t rows, int isa, int threads) {
    lora_group groups[MOST_GROUPS];
    int32_t count = 0;
    for (int32_t n = 0; n < t->count; n++) {
        lora_group group = t->groups[n];
        int64_t start = group.start > first ? group.start : first, stop = first + rows;
        if (group.stop < stop) stop = group.stop;
        if (start >= stop) continue;
        if (group.gate) group.gate += start - group.start;
        group.pair = &t->pairs[n];
        group.start = start - first;
        group.stop = stop - first;
        groups[count++] = group;
    }
    int64_t bytes = rows * t->y_stride * 4;
    float *y = memory(bytes);
    memcpy(y, t->y + first * t->y_stride, (size_t)bytes);
    const void *x = t->tokens ? (const void *)(t->tokens + first) : t->x + first * t->x_stride;
    if (lora_add(y, t->y_stride, x, t->x_stride, groups, count, isa, threads)) abort();
    return y;
}

/* One term of a product: a looked-up row has one. */
static double term(const test *t, const lora_pair *pair, int64_t row, int64_t rank, int64_t column) {
    if (t->tokens) return t->tokens[row] == column ? value(pair->a, column * pair->rank + rank, pair->a_type) : 0.0;
    return t->x[row * t->x_stride + column] * value(pair->a, rank * pair->in + column, pair->a_type);
}

/* What must come out of a row, and how large the numbers were that each value was summed from. */
static void expect(const test *t, int64_t row, double *y, double *size) {
    for (int64_t c = 0; c < t->y_stride; c++) size[c] = fabs(y[c] = t->y[row * t->y_stride + c]);
    for (int32_t n = 0; n < t->count; n++) {
        const lora_group *group = &t->groups[n];
        const lora_pair *pair = &t->pairs[n];
        if (row < group->start || row >= group->stop) continue;
        double products[RANKS], sizes[RANKS], share = group->weight * (group->gate ? group->gate[row - group->start] : 1.0);
        for (int64_t r = 0; r < pair->rank; r++) {
            products[r] = sizes[r] = 0;
            for (int64_t c = 0; c < pair->in; c++) {
                double found = pair->multiplier * term(t, pair, row, r, c);
                products[r] += found;
                sizes[r] += fabs(found);
            }
        }
        for (int64_t c = 0; c < pair->out; c++) {
            double d = 0, all = 0, scale = pair->scale ? pair->scale[c] : 1.0, bias = pair->bias ? pair->bias[c] : 0.0;
            for (int64_t r = 0; r < pair->rank; r++) {
                double b = value(pair->b, r * pair->out + c, pair->b_type);
                d += products[r] * b;
                all += sizes[r] * fabs(b);
            }
            double base = t->y[row * t->y_stride + c]; /* and not what the groups before made of it */
            y[c] += share * (scale * (base + d) + bias - base);
            size[c] += fabs(share) * ((fabs(scale) + 1) * (fabs(base) + all) + fabs(bias));
        }
    }
}

static int failed(const char *what, int isa, int threads, int number, int64_t row, int64_t column) {
    printf("%s: instruction set %d, %d threads, case %d, row %lld, column %lld\n", what, isa, threads, number,
           (long long)row, (long long)column);
    return 1;
}

static int check(test *t, int isa, int threads, int number) {
    float *y = run(t, 0, t->rows, isa, threads);
    double *wanted = memory(t->y_stride * 8), *size = memory(t->y_stride * 8);
    int wrong = 0;
    for (int64_t row = 0; row < t->rows && !wrong; row++) {
        float *found = y + row * t->y_stride, *alone = run(t, row, 1, isa, 1);
        expect(t, row, wanted, size);
        for (int64_t c = 0; c < t->y_stride && !wrong; c++) {
            /* Below 1e-30 a float has few digits left. */
            if (!(fabs(found[c] - wanted[c]) <= 1e-5 * size[c] + 1e-30)) wrong = failed("wrong", isa, threads, number, row, c);
            if (memcmp(&found[c], &alone[c], 4)) wrong = failed("not as alone", isa, threads, number, row, c);
        }
        free(alone);
    }
    free(wanted);
    free(size);
    free(y);
    return wrong;
}

int main(void) {
    int sets = 0;
    for (int isa = LORA_SCALAR; isa <= LORA_NEON; isa++) {
        if (!lora_has(isa)) continue;
        printf("instruction set %d\n", isa);
        sets++;
        seed = 1;
        for (int n = 0; n < CASES; n++) {
            test t = make();
            int wrong = check(&t, isa, 1 + n % 2, n);
            free_test(&t);
            if (wrong) return 1;
        }
    }
    printf("%d cases\n", sets * CASES);
    return 0;
}
