/* The LoRA delta at native speed.
 *
 * Plain C11, no dependency but libc; OpenMP where the compiler has it, and then the same library, and so the same threads,
 * as ggml's. Knows nothing of llama.cpp. reference.py says what must come out; evaluate.c adds it where a graph multiplies.
 */
#include "delta.h"
#include "instructions.h"

#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* Columns are given to threads in blocks of this many, so that no two write one cache line. */
#define BLOCK 64
/* Below this many multiplications a second thread costs more than it does. */
#define SMALL 32768

typedef struct {
    void (*down)(float *, const lora_pair *, const float *, int64_t, int64_t, int, int);
    void (*up)(float *, int64_t, const float *, int64_t, const float *, const float *, const lora_pair *, int64_t, int64_t,
               int64_t);
    int rows;
} kernels;

static kernels kernels_for(int32_t isa) {
#ifdef LORA_X86
    if (isa == LORA_AVX512) return (kernels){down_avx512, up_avx512, 4};
    if (isa == LORA_AVX2) return (kernels){down_avx2, up_avx2, 2};
#endif
#if defined(__aarch64__)
    if (isa == LORA_NEON) return (kernels){down_neon, up_neon, 4};
#endif
    (void)isa;
    return (kernels){down_scalar, up_scalar, 2};
}

bool lora_has(int32_t isa) {
#ifdef LORA_X86
    __builtin_cpu_init();
    if (isa == LORA_AVX512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
    if (isa == LORA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(__aarch64__)
    if (isa == LORA_NEON) return true;
#endif
    return isa == LORA_SCALAR;
}

int32_t lora_abi(void) { return LORA_ABI; }

void lora_sizes(int64_t sizes[5]) {
    const int64_t all[5] = {sizeof(lora_pair), sizeof(lora_group), sizeof(lora_share), sizeof(lora_layout),
                            sizeof(lora_outcome)};
    memcpy(sizes, all, sizeof all);
}

bool lora_threaded(void) {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

static bool reserve(lora_scratch *own, int64_t floats) {
    if (floats <= own->size) return true;
    float *memory = realloc(own->memory, (size_t)floats * sizeof(float));
    if (!memory) return false;
    *own = (lora_scratch){memory, floats};
    return true;
}

/* One node's work; constant while its threads run. */
typedef struct {
    kernels use;
    float *y;
    const float *base; /* y as the base computed it: y itself, or a copy where rows change twice; rows from `copied` on */
    const void *x;
    int64_t y_stride, base_stride, x_stride, copied;
    lora_group *groups;
    int32_t count;
    int ranks;     /* of a tile of the first product */
    int64_t tiles; /* over all groups */
} work;

/* Both products are by rows: `pair` looks its up. */
static void take_rows(float *products, const lora_pair *pair, const int32_t *tokens, int64_t first, int64_t rows,
                      int64_t ranks) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = first; j < first + ranks; j++)
            products[i * pair->rank + j] = widened(pair->a, tokens[i] * pair->rank + j, pair->a_type);
}

/* A group's memory is its products, [rows, rank], and behind them each row's share of the change, [rows]. */
static int64_t needs(const lora_group *group) { return (group->stop - group->start) * (group->pair->rank + 1); }

static int64_t row_tiles(const work *job, const lora_group *group) {
    return (group->stop - group->start + job->use.rows - 1) / job->use.rows;
}

static int64_t rank_tiles(const work *job, const lora_group *group) {
    return (group->pair->rank + job->ranks - 1) / job->ranks;
}

static void run_tile(const work *job, const lora_group *group, int64_t tile) {
    const lora_pair *pair = group->pair;
    int64_t across = rank_tiles(job, group), row = tile / across * job->use.rows, first = tile % across * job->ranks;
    int64_t rows = group->stop - group->start - row, ranks = pair->rank - first;
    if (rows > job->use.rows) rows = job->use.rows;
    if (ranks > job->ranks) ranks = job->ranks;
    float *products = group->products + row * pair->rank;
    if (pair->lookup) {
        take_rows(products, pair, (const int32_t *)job->x + group->start + row, first, rows, ranks);
    } else {
        const float *x = (const float *)job->x + (group->start + row) * job->x_stride;
        job->use.down(products, pair, x, job->x_stride, first, (int)rows, (int)ranks);
    }
    const float *shares = group->products + (group->stop - group->start) * pair->rank + row;
    bool plain = !pair->scale && !pair->bias; /* else the share is of the whole change, not of the products */
    for (int64_t i = 0; i < rows; i++) {
        float by = plain ? pair->multiplier * shares[i] : pair->multiplier;
        if (by != 1.0f)
            for (int64_t j = first; j < first + ranks; j++) products[i * pair->rank + j] *= by;
    }
}

/* First product: the tiles of all groups in one line, cut into equal parts. */
static void first_product(const work *job, int thread, int threads) {
    int64_t begin = job->tiles * thread / threads, end = job->tiles * (thread + 1) / threads;
    for (int32_t n = 0; n < job->count && end > 0; n++) {
        const lora_group *group = &job->groups[n];
        int64_t tiles = row_tiles(job, group) * rank_tiles(job, group);
        for (int64_t tile = begin > 0 ? begin : 0; tile < tiles && tile < end; tile++) run_tile(job, group, tile);
        begin -= tiles;
        end -= tiles;
    }
}

/* Second product: by columns, every group in its order, so that groups may overlap in rows. */
static void second_product(const work *job, int thread, int threads) {
    for (int32_t n = 0; n < job->count; n++) {
        const lora_group *group = &job->groups[n];
        int64_t out = group->pair->out, blocks = (out + BLOCK - 1) / BLOCK, rows = group->stop - group->start;
        int64_t from = blocks * thread / threads * BLOCK, to = blocks * (thread + 1) / threads * BLOCK;
        if (to > out) to = out;
        if (from >= to) continue;
        const float *shares = group->products + rows * group->pair->rank;
        float *y = job->y + group->start * job->y_stride;
        const float *base = job->base + (group->start - job->copied) * job->base_stride;
        job->use.up(y, job->y_stride, base, job->base_stride, group->products, shares, group->pair, rows, from, to);
    }
}

static void run_job(const work *job, int32_t threads) {
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            int thread = omp_get_thread_num(), all = omp_get_num_threads();
            first_product(job, thread, all);
#pragma omp barrier
            second_product(job, thread, all);
        }
        return;
    }
#endif
    (void)threads;
    first_product(job, 0, 1);
    second_product(job, 0, 1);
}

/* Whether a row scale comes to rows that another group has changed: it is of what the base computed. */
static bool needs_base(const work *job) {
    for (int32_t n = 1; n < job->count; n++) {
        const lora_group *group = &job->groups[n];
        if (!group->pair->scale) continue;
        for (int32_t m = 0; m < n; m++)
            if (job->groups[m].start < group->stop && group->start < job->groups[m].stop) return true;
    }
    return false;
}

/* From and to which row groups are. */
static void reach(const work *job, int64_t *start, int64_t *stop) {
    *start = job->groups[0].start;
    *stop = job->groups[0].stop;
    for (int32_t n = 1; n < job->count; n++) {
        if (job->groups[n].start < *start) *start = job->groups[n].start;
        if (job->groups[n].stop > *stop) *stop = job->groups[n].stop;
    }
}

/* Points `base` at a copy of y in `memory`, whose rows follow one another. */
static void copy_base(work *job, float *memory, int64_t start, int64_t stop) {
    int64_t out = job->groups[0].pair->out;
    for (int64_t row = start; row < stop; row++)
        memcpy(memory + (row - start) * out, job->y + row * job->y_stride, (size_t)out * sizeof(float));
    job->base = memory;
    job->base_stride = out;
    job->copied = start;
}

static bool prepare(work *job, lora_scratch *own, int32_t *threads) {
    int64_t floats = 0, multiplications = 0, start, stop;
    bool copies = needs_base(job);
    for (int32_t n = 0; n < job->count; n++) {
        const lora_group *group = &job->groups[n];
        int64_t in = group->pair->lookup ? 0 : group->pair->in;
        floats += needs(group);
        multiplications += (group->stop - group->start) * group->pair->rank * (in + group->pair->out);
    }
    reach(job, &start, &stop);
    if (!reserve(own, floats + (copies ? (stop - start) * job->groups[0].pair->out : 0))) return false;
    if (multiplications < SMALL) *threads = 1;
    if (copies) copy_base(job, own->memory + floats, start, stop);
    float *memory = own->memory;
    for (int32_t n = 0; n < job->count; n++) {
        lora_group *group = &job->groups[n];
        int64_t rows = group->stop - group->start;
        group->products = memory;
        float *shares = memory + rows * group->pair->rank;
        for (int64_t i = 0; i < rows; i++) shares[i] = group->weight * (group->gate ? group->gate[i] : 1.0f);
        memory += needs(group);
    }
    for (job->ranks = 4;; job->ranks /= 2) {
        job->tiles = 0;
        for (int32_t n = 0; n < job->count; n++)
            job->tiles += row_tiles(job, &job->groups[n]) * rank_tiles(job, &job->groups[n]);
        if (job->ranks == 1 || job->tiles >= 2 * *threads) return true;
    }
}

int32_t lora_delta(lora_scratch *own, float *y, int64_t y_stride, const void *x, int64_t x_stride, lora_group *groups,
                   int32_t count, int32_t isa, int32_t threads) {
    work job = {kernels_for(isa), y, y, x, y_stride, y_stride, x_stride, 0, groups, count, 0, 0};
    if (count == 0) return LORA_OK;
    if (!prepare(&job, own, &threads)) return LORA_NO_MEMORY;
    run_job(&job, threads);
    return LORA_OK;
}

int32_t lora_add(float *y, int64_t y_stride, const void *x, int64_t x_stride, lora_group *groups, int32_t count, int32_t isa,
                 int32_t threads) {
    lora_scratch own = {NULL, 0};
    int32_t code = lora_delta(&own, y, y_stride, x, x_stride, groups, count, isa, threads);
    free(own.memory);
    return code;
}
