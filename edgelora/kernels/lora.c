/* The LoRA delta at native speed, and the evaluation callback that adds it without a line of Python per node.
 *
 * Plain C11, no dependency but libc; OpenMP where the compiler has it, and then the same library, and so the same threads,
 * as ggml's. Knows nothing of llama.cpp but the byte offsets it is given. reference.py says what must come out.
 */
#include "lora.h"

#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#define LORA_X86 1
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS static inline __attribute__((always_inline))
/* Columns of b that are used for all rows before the next. */
#define PANEL 256
/* Columns are given to threads in blocks of this many, so that no two write one cache line. */
#define BLOCK 64
/* Below this many multiplications a second thread costs more than it does. */
#define SMALL 32768

/* The same place in the rows that are streamed next: rows are too short for the processor to find out by itself. */
#define AHEAD(p, at, type) __builtin_prefetch((const char *)(p) + (at) * ((type) == LORA_F32 ? 4 : 2), 0, 2)

ALWAYS float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

ALWAYS float float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x0400u) return float_of_bits(sign | ((rest << 13) + 0x38000000u));
    float tiny = (float)rest * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -tiny : tiny;
}

ALWAYS float widened(const void *p, int64_t at, int type) {
    if (type == LORA_F16) return float_of_half(((const uint16_t *)p)[at]);
    if (type == LORA_BF16) return float_of_bits((uint32_t)((const uint16_t *)p)[at] << 16);
    return ((const float *)p)[at];
}

#define NAME(x) x##_scalar
#define TARGET
#define VEC float
#define W 1
#define ROWS 2
#define V_ZERO 0.0f
#define V_SET(s) (s)
#define V_LOAD(p) (*(p))
#define V_STORE(p, v) (*(p) = (v))
#define V_FMA(a, b, c) ((a) * (b) + (c))
#define V_ADD(a, b) ((a) + (b))
#define V_SUB(a, b) ((a) - (b))
#define V_MUL(a, b) ((a) * (b))
#define V_SUM(v) (v)
#define V_F16(p) float_of_half(*(p))
#define V_BF16(p) float_of_bits((uint32_t) * (p) << 16)
#include "lora_kernels.h"

#ifdef LORA_X86
#define AVX2 __attribute__((target("avx2,fma,f16c")))
AVX2 ALWAYS float sum_avx2(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#define NAME(x) x##_avx2
#define TARGET AVX2
#define VEC __m256
#define W 8
#define ROWS 2
#define V_ZERO _mm256_setzero_ps()
#define V_SET(s) _mm256_set1_ps(s)
#define V_LOAD(p) _mm256_loadu_ps(p)
#define V_STORE(p, v) _mm256_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define V_ADD(a, b) _mm256_add_ps(a, b)
#define V_SUB(a, b) _mm256_sub_ps(a, b)
#define V_MUL(a, b) _mm256_mul_ps(a, b)
#define V_SUM(v) sum_avx2(v)
#define V_F16(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define V_BF16(p) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))
#include "lora_kernels.h"

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define VEC __m512
#define W 16
#define ROWS 4
#define V_ZERO _mm512_setzero_ps()
#define V_SET(s) _mm512_set1_ps(s)
#define V_LOAD(p) _mm512_loadu_ps(p)
#define V_STORE(p, v) _mm512_storeu_ps(p, v)
#define V_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define V_ADD(a, b) _mm512_add_ps(a, b)
#define V_SUB(a, b) _mm512_sub_ps(a, b)
#define V_MUL(a, b) _mm512_mul_ps(a, b)
#define V_SUM(v) _mm512_reduce_add_ps(v)
#define V_F16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define V_BF16(p) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
#include "lora_kernels.h"
#endif

#if defined(__aarch64__)
#define NAME(x) x##_neon
#define TARGET
#define VEC float32x4_t
#define W 4
#define ROWS 4
#define V_ZERO vdupq_n_f32(0.0f)
#define V_SET(s) vdupq_n_f32(s)
#define V_LOAD(p) vld1q_f32(p)
#define V_STORE(p, v) vst1q_f32(p, v)
#define V_FMA(a, b, c) vfmaq_f32(c, a, b)
#define V_ADD(a, b) vaddq_f32(a, b)
#define V_SUB(a, b) vsubq_f32(a, b)
#define V_MUL(a, b) vmulq_f32(a, b)
#define V_SUM(v) vaddvq_f32(v)
#define V_F16(p) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))
#define V_BF16(p) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#include "lora_kernels.h"
#endif

typedef struct {
    void (*down)(float *, const lora_pair *, const float *, int64_t, int64_t, int, int);
    void (*up)(float *, int64_t, const float *, const float *, const lora_pair *, int64_t, int64_t, int64_t);
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

/* Memory for what lies between the two products; grows, and is kept. */
typedef struct {
    float *memory;
    int64_t size;
} scratch;

static bool reserve(scratch *own, int64_t floats) {
    if (floats <= own->size) return true;
    float *memory = realloc(own->memory, (size_t)floats * sizeof(float));
    if (!memory) return false;
    *own = (scratch){memory, floats};
    return true;
}

/* One node's work; constant while its threads run. */
typedef struct {
    kernels use;
    float *y;
    const float *x;
    int64_t y_stride, x_stride;
    lora_group *groups;
    int32_t count;
    int ranks;     /* of a tile of the first product */
    int64_t tiles; /* over all groups */
} work;

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
    job->use.down(products, pair, job->x + (group->start + row) * job->x_stride, job->x_stride, first, (int)rows, (int)ranks);
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
        job->use.up(job->y + group->start * job->y_stride, job->y_stride, group->products, shares, group->pair, rows, from, to);
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

static bool prepare(work *job, scratch *own, int32_t *threads) {
    int64_t floats = 0, multiplications = 0;
    for (int32_t n = 0; n < job->count; n++) {
        const lora_group *group = &job->groups[n];
        floats += needs(group);
        multiplications += (group->stop - group->start) * group->pair->rank * (group->pair->in + group->pair->out);
    }
    if (!reserve(own, floats)) return false;
    if (multiplications < SMALL) *threads = 1;
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

static int32_t add(scratch *own, work job, int32_t threads) {
    if (job.count == 0) return LORA_OK;
    if (!prepare(&job, own, &threads)) return LORA_NO_MEMORY;
    run_job(&job, threads);
    return LORA_OK;
}

int32_t lora_add(float *y, int64_t y_stride, const float *x, int64_t x_stride, lora_group *groups, int32_t count, int32_t isa,
                 int32_t threads) {
    scratch own = {NULL, 0};
    int32_t code = add(&own, (work){kernels_for(isa), y, x, y_stride, x_stride, groups, count, 0, 0}, threads);
    free(own.memory);
    return code;
}

/* ---- the evaluation callback ---- */

struct lora_state {
    lora_callback python;
    int32_t mode, isa, threads;
    lora_layout layout;
    /* Weight address to module, open addressing; at most half full, so that a miss ends soon. */
    const void **keys;
    int32_t *values;
    uint64_t mask;
    int32_t modules;
    uint8_t *watched, *pending; /* [modules] */
    /* The step being computed. */
    const lora_share *shares;
    int32_t share_count;
    int64_t rows, outputs;
    lora_outcome outcome;
    lora_group *groups;
    int32_t group_room;
    scratch own;
};

lora_state *lora_open(lora_callback python) {
    lora_state *state = calloc(1, sizeof *state);
    if (state) state->python = python;
    return state;
}

static void forget_modules(lora_state *state) {
    free(state->keys);
    free(state->values);
    free(state->watched);
    free(state->pending);
    state->keys = NULL;
    state->values = NULL;
    state->watched = state->pending = NULL;
    state->modules = 0;
}

void lora_free(lora_state *state) {
    if (!state) return;
    forget_modules(state);
    free(state->groups);
    free(state->own.memory);
    free(state);
}

ALWAYS uint64_t place(const lora_state *state, const void *key) {
    return ((uint64_t)(uintptr_t)key * 0x9e3779b97f4a7c15u) >> 32 & state->mask;
}

/* The module of this weight address, or -1. */
ALWAYS int32_t module_of(const lora_state *state, const void *weight) {
    for (uint64_t at = place(state, weight); state->keys[at]; at = (at + 1) & state->mask)
        if (state->keys[at] == weight) return state->values[at];
    return -1;
}

int32_t lora_modules(lora_state *state, const lora_layout *layout, const void *const *weights, int32_t modules, int32_t isa,
                     int32_t threads) {
    uint64_t size = 16;
    while (size < 2 * (uint64_t)modules) size *= 2;
    forget_modules(state);
    state->keys = calloc(size, sizeof *state->keys);
    state->values = calloc(size, sizeof *state->values);
    state->watched = calloc((size_t)modules + 1, 1);
    state->pending = calloc((size_t)modules + 1, 1);
    if (!state->keys || !state->values || !state->watched || !state->pending) {
        forget_modules(state);
        return LORA_NO_MEMORY;
    }
    state->mask = size - 1;
    state->modules = modules;
    state->layout = *layout;
    state->isa = isa;
    state->threads = threads;
    for (int32_t n = 0; n < modules; n++) {
        uint64_t at = place(state, weights[n]);
        while (state->keys[at]) at = (at + 1) & state->mask;
        state->keys[at] = weights[n];
        state->values[at] = n;
    }
    return LORA_OK;
}

void lora_set_mode(lora_state *state, int32_t mode) { state->mode = mode; }

int32_t lora_begin(lora_state *state, const lora_share *shares, int32_t count, int64_t rows, int64_t outputs) {
    if (count > state->group_room) {
        lora_group *groups = realloc(state->groups, (size_t)count * sizeof *groups);
        if (!groups) return -1;
        state->groups = groups;
        state->group_room = count;
    }
    state->shares = shares;
    state->share_count = count;
    state->rows = rows;
    state->outputs = outputs;
    memset(&state->outcome, 0, sizeof state->outcome);
    for (int32_t module = 0; module < state->modules; module++) {
        bool wanted = false;
        for (int32_t n = 0; n < count; n++) wanted = wanted || shares[n].pairs[module];
        state->watched[module] = state->pending[module] = wanted;
        state->outcome.expected += wanted;
    }
    state->mode = state->outcome.expected ? LORA_NATIVE : LORA_IDLE;
    return state->outcome.expected;
}

void lora_end(lora_state *state, lora_outcome *outcome) {
    state->mode = LORA_IDLE;
    state->shares = NULL;
    state->share_count = 0;
    *outcome = state->outcome;
}

#define AT(node, offset) ((const char *)(node) + (offset))

ALWAYS const void *pointer_at(const void *node, int64_t offset) {
    const void *value;
    memcpy(&value, AT(node, offset), sizeof value);
    return value;
}

typedef struct {
    float *data;
    int64_t width, rows, stride; /* stride in floats */
} matrix;

/* The tensor as plain float32 rows; false where it is anything else, and must not be touched. As layout.rows_of. */
static bool matrix_at(const lora_layout *layout, const void *tensor, matrix *found) {
    int32_t type;
    int64_t ne[4];
    size_t nb[4];
    memcpy(&type, AT(tensor, layout->type), sizeof type);
    memcpy(ne, AT(tensor, layout->ne), sizeof ne);
    memcpy(nb, AT(tensor, layout->nb), sizeof nb);
    *found = (matrix){(float *)pointer_at(tensor, layout->data), ne[0], ne[1], (int64_t)(nb[1] / sizeof(float))};
    return type == layout->type_f32 && ne[2] == 1 && ne[3] == 1 && ne[0] > 0 && ne[1] >= 0 && found->data && nb[0] == 4 &&
           nb[1] % 4 == 0 && nb[1] >= 4 * (size_t)ne[0];
}

static int32_t collect(lora_state *state, int32_t module, const matrix *y, const matrix *x, int32_t *count) {
    bool all = y->rows == state->rows;
    if (!all && y->rows != state->outputs) return LORA_BAD_ROWS;
    for (int32_t n = 0; n < state->share_count; n++) {
        const lora_share *share = &state->shares[n];
        const lora_pair *pair = share->pairs[module];
        const int64_t *range = all ? share->rows : share->outputs;
        if (!pair || range[0] >= range[1]) continue;
        if (pair->in != x->width || pair->out != y->width) return LORA_BAD_WIDTH;
        if (range[0] < 0 || range[1] > y->rows) return LORA_BAD_ROWS;
        const float *gate = all ? share->gate : share->output_gate;
        state->groups[(*count)++] = (lora_group){pair, gate, NULL, range[0], range[1], share->weight};
    }
    return LORA_OK;
}

static int32_t visit(lora_state *state, const void *node, matrix *y) {
    const lora_layout *layout = &state->layout;
    const void *weight = pointer_at(node, layout->src), *input = pointer_at(node, layout->src + (int64_t)sizeof(void *));
    int32_t op, count = 0, module = module_of(state, weight);
    matrix x;
    memcpy(&op, AT(node, layout->op), sizeof op);
    if (module < 0 || op != layout->op_mul_mat || !input) return LORA_BAD_LAYOUT;
    if (!matrix_at(layout, node, y) || !matrix_at(layout, input, &x) || x.rows != y->rows) return LORA_BAD_LAYOUT;
    if (!state->pending[module]) return LORA_TWICE;
    state->pending[module] = 0;
    state->outcome.visited++;
    int32_t code = collect(state, module, y, &x, &count);
    if (code != LORA_OK) return code;
    work job = {kernels_for(state->isa), y->data, x.data, y->stride, x.stride, state->groups, count, 0, 0};
    return add(&state->own, job, state->threads);
}

bool lora_evaluate(void *node, bool ask, void *user) {
    lora_state *state = user;
    if (state->mode == LORA_IDLE) return false;
    if (state->mode == LORA_PYTHON) return state->python(node, ask, NULL);
    if (ask) {
        int32_t module = module_of(state, pointer_at(node, state->layout.src));
        return module >= 0 && state->watched[module];
    }
    matrix y = {NULL, 0, 0, 0};
    int32_t code = visit(state, node, &y);
    if (code == LORA_OK) return true;
    size_t room = sizeof state->outcome.node - 1;
    size_t size = (size_t)state->layout.name_size < room ? (size_t)state->layout.name_size : room;
    state->outcome.error = code;
    state->outcome.rows = y.rows;
    memcpy(state->outcome.node, AT(node, state->layout.name), size);
    return false; /* llama.cpp stops here but reports success: the outcome says otherwise */
}
