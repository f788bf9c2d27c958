/* The LoRA delta and the evaluation callback that adds it: what native.py sees of lora.c, and evaluator.py of evaluate.c. */
#ifndef EDGELORA_LORA_H
#define EDGELORA_LORA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Raised with every change to a struct or function below; native.py refuses a library with another. */
#define LORA_ABI 3

enum lora_type { LORA_F32 = 0, LORA_F16 = 1, LORA_BF16 = 2 };
enum lora_isa { LORA_SCALAR = 0, LORA_AVX2 = 1, LORA_AVX512 = 2, LORA_NEON = 3 };
enum lora_mode { LORA_IDLE = 0, LORA_PYTHON = 1, LORA_NATIVE = 2 };
enum lora_error {
    LORA_OK = 0,
    LORA_BAD_LAYOUT = 1, /* a watched node is no product of plain float32 matrices, nor plain rows that were looked up */
    LORA_BAD_ROWS = 2,   /* its rows are neither all rows of the step nor its output rows */
    LORA_TWICE = 3,      /* its weight was used before in this step */
    LORA_BAD_WIDTH = 4,  /* the factors are of another width than the node */
    LORA_NO_MEMORY = 5,
    LORA_BAD_TOKEN = 6,  /* a token that the factors of the embedding do not have */
};

/* One module's factors, and what DoRA and lora_bias add: with d = multiplier * (x a^T) b, and y what the base computed,
 * the change of a row is scale * (y + d) - y + bias; a NULL scale is ones, a NULL bias is zeros.
 * The embedding's: `lookup` is set, and x a^T of a row is the row of a that its token names. */
typedef struct {
    const void *a;      /* [rank, in], or for a lookup [in, rank] with a row for each token */
    const void *b;      /* [rank, out] */
    const float *scale; /* [out] or NULL */
    const float *bias;  /* [out] or NULL */
    int64_t rank, in, out;
    int32_t a_type, b_type;
    float multiplier; /* the adapter's own scale; 1 where b holds it */
    int32_t lookup;
} lora_pair;

/* The rows start to stop (exclusive) of one node: y += weight * gate[row - start] * change. Groups may overlap: their
 * changes, each of what the base computed, are added in the groups' order. */
typedef struct {
    const lora_pair *pair;
    const float *gate; /* [stop - start] or NULL */
    float *products;   /* ours: x a^T of this group while a node is computed */
    int64_t start, stop;
    float weight;
} lora_group;

/* One adapter's part of a step. */
typedef struct {
    const lora_pair *const *pairs; /* [modules], NULL where the adapter leaves a module alone */
    const float *gate;             /* by row, or NULL */
    const float *output_gate;      /* by output row, or NULL */
    int64_t rows[2], outputs[2];   /* start, stop among all rows, and among the rows whose logits are wanted */
    float weight;
} lora_share;

/* Byte offsets into struct ggml_tensor, and the numbers of types and operations; layout.py knows them. */
typedef struct {
    int64_t type, ne, nb, op, src, data, name;
    int64_t type_f32, type_i32, op_mul_mat, op_get_rows, name_size;
} lora_layout;

/* What a step left behind. */
typedef struct {
    int32_t error; /* enum lora_error */
    int32_t expected, visited;
    int64_t rows; /* of the node that failed */
    char node[64];
} lora_outcome;

typedef bool (*lora_callback)(void *node, bool ask, void *user);
typedef struct lora_state lora_state;

#if defined(_WIN32)
#define LORA_API __declspec(dllexport)
#else
#define LORA_API __attribute__((visibility("default")))
#endif

LORA_API int32_t lora_abi(void);
/* sizeof of pair, group, share, layout, outcome in this order. */
LORA_API void lora_sizes(int64_t sizes[5]);
LORA_API bool lora_has(int32_t isa);
LORA_API bool lora_threaded(void);
/* y [rows, out] and x [rows, in] with strides in floats; where the groups look up, x is one int32_t for each row, and
 * every one of them a row of their a. 0, or LORA_NO_MEMORY. */
LORA_API int32_t lora_add(float *y, int64_t y_stride, const void *x, int64_t x_stride, lora_group *groups, int32_t count,
                          int32_t isa, int32_t threads);
/* An idle state, or NULL without memory. `python` is called in LORA_PYTHON mode. */
LORA_API lora_state *lora_open(lora_callback python);
LORA_API void lora_free(lora_state *state);
/* Which weight tensors are modules: all addresses different, but that the module numbered `lookup` (-1: none of them) is
 * where rows of its weight are looked up, and may share it with one that multiplies. 0, or LORA_NO_MEMORY. */
LORA_API int32_t lora_modules(lora_state *state, const lora_layout *layout, const void *const *weights, int32_t modules,
                              int32_t lookup, int32_t isa, int32_t threads);
LORA_API void lora_set_mode(lora_state *state, int32_t mode);
/* Prepares a step; the number of modules its shares change, or -1 without memory. The shares stay the caller's and must
 * live until the step is over. */
LORA_API int32_t lora_begin(lora_state *state, const lora_share *shares, int32_t count, int64_t rows, int64_t outputs);
LORA_API void lora_end(lora_state *state, lora_outcome *outcome);
/* The evaluation callback; `user` is the state. */
LORA_API bool lora_evaluate(void *node, bool ask, void *user);

#endif
