/* The evaluation callback: adds the step's deltas where llama.cpp's graph multiplies or looks up, without a line of
 * Python per node.
 *
 * Knows nothing of llama.cpp but the byte offsets it is given, and reads no node that is not a plain product or lookup.
 */
#include "delta.h"

#include <stdlib.h>
#include <string.h>

struct lora_state {
    lora_callback python;
    int32_t mode, isa, threads;
    lora_layout layout;
    /* Weight address to module, open addressing; at most half full, so that a miss ends soon. */
    const void **keys;
    int32_t *values;
    uint64_t mask;
    int32_t modules, lookup;
    uint8_t *watched, *pending; /* [modules] */
    /* The step being computed. */
    const lora_share *shares;
    int32_t share_count;
    int64_t rows, outputs;
    lora_outcome outcome;
    lora_group *groups;
    int32_t group_room;
    lora_scratch own;
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

/* Tensors stand at even addresses: an odd key is the same weight where its rows are looked up. */
ALWAYS const void *key_of(const void *weight, bool lookup) { return (const char *)weight + lookup; }

/* The module of this key, or -1. */
ALWAYS int32_t module_of(const lora_state *state, const void *key) {
    for (uint64_t at = place(state, key); state->keys[at]; at = (at + 1) & state->mask)
        if (state->keys[at] == key) return state->values[at];
    return -1;
}

int32_t lora_modules(lora_state *state, const lora_layout *layout, const void *const *weights, int32_t modules,
                     int32_t lookup, int32_t isa, int32_t threads) {
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
    state->lookup = lookup;
    state->layout = *layout;
    state->isa = isa;
    state->threads = threads;
    for (int32_t n = 0; n < modules; n++) {
        const void *key = key_of(weights[n], n == lookup);
        uint64_t at = place(state, key);
        while (state->keys[at]) at = (at + 1) & state->mask;
        state->keys[at] = key;
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

/* The tensor as one token for each of `rows` rows; NULL where it is anything else. */
static const int32_t *tokens_at(const lora_layout *layout, const void *tensor, int64_t rows) {
    int32_t type;
    int64_t ne[4];
    size_t nb;
    memcpy(&type, AT(tensor, layout->type), sizeof type);
    memcpy(ne, AT(tensor, layout->ne), sizeof ne);
    memcpy(&nb, AT(tensor, layout->nb), sizeof nb);
    bool plain = type == layout->type_i32 && ne[0] == rows && ne[1] == 1 && ne[2] == 1 && ne[3] == 1 && nb == sizeof(int32_t);
    return plain ? pointer_at(tensor, layout->data) : NULL;
}

static bool tokens_known(const int32_t *tokens, const int64_t *range, int64_t count) {
    for (int64_t row = range[0]; row < range[1]; row++)
        if (tokens[row] < 0 || tokens[row] >= count) return false;
    return true;
}

/* `tokens`: where the module looks up; else x is its input. */
static int32_t collect(lora_state *state, int32_t module, const matrix *y, const matrix *x, const int32_t *tokens,
                       int32_t *count) {
    bool all = y->rows == state->rows;
    if (!all && y->rows != state->outputs) return LORA_BAD_ROWS;
    for (int32_t n = 0; n < state->share_count; n++) {
        const lora_share *share = &state->shares[n];
        const lora_pair *pair = share->pairs[module];
        const int64_t *range = all ? share->rows : share->outputs;
        if (!pair || range[0] >= range[1]) continue;
        if (pair->out != y->width || !pair->lookup != !tokens || (!tokens && pair->in != x->width)) return LORA_BAD_WIDTH;
        if (range[0] < 0 || range[1] > y->rows) return LORA_BAD_ROWS;
        if (tokens && !tokens_known(tokens, range, pair->in)) return LORA_BAD_TOKEN;
        const float *gate = all ? share->gate : share->output_gate;
        state->groups[(*count)++] = (lora_group){pair, gate, NULL, range[0], range[1], share->weight};
    }
    return LORA_OK;
}

/* Which module this node is, or -1. */
ALWAYS int32_t module_at(const lora_state *state, const void *node) {
    int32_t op;
    memcpy(&op, AT(node, state->layout.op), sizeof op);
    return module_of(state, key_of(pointer_at(node, state->layout.src), op == state->layout.op_get_rows));
}

static int32_t visit(lora_state *state, const void *node, matrix *y) {
    const lora_layout *layout = &state->layout;
    const void *input = pointer_at(node, layout->src + (int64_t)sizeof(void *));
    int32_t op, count = 0, module = module_at(state, node);
    matrix x = {NULL, 0, 0, 0};
    memcpy(&op, AT(node, layout->op), sizeof op);
    if (module < 0 || !input || !matrix_at(layout, node, y)) return LORA_BAD_LAYOUT;
    bool looks_up = module == state->lookup;
    const int32_t *tokens = looks_up ? tokens_at(layout, input, y->rows) : NULL;
    if (looks_up ? !tokens : op != layout->op_mul_mat || !matrix_at(layout, input, &x) || x.rows != y->rows)
        return LORA_BAD_LAYOUT;
    if (!state->pending[module]) return LORA_TWICE;
    state->pending[module] = 0;
    state->outcome.visited++;
    int32_t code = collect(state, module, y, &x, tokens, &count);
    if (code != LORA_OK) return code;
    const void *from = looks_up ? (const void *)tokens : x.data;
    return lora_delta(&state->own, y->data, y->stride, from, x.stride, state->groups, count, state->isa, state->threads);
}

bool lora_evaluate(void *node, bool ask, void *user) {
    lora_state *state = user;
    if (state->mode == LORA_IDLE) return false;
    if (state->mode == LORA_PYTHON) return state->python(node, ask, NULL);
    if (ask) {
        int32_t module = module_at(state, node);
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
