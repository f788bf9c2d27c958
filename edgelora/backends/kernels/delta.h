/* The delta of one node, for evaluate.c: what lora.c gives it besides lora.h. Not exported. */
#ifndef EDGELORA_DELTA_H
#define EDGELORA_DELTA_H

#include "lora.h"

#define ALWAYS static inline __attribute__((always_inline))

/* Memory for what lies between the two products; grows, and is kept. Begin with {NULL, 0}, free `memory` at the end. */
typedef struct {
    float *memory;
    int64_t size;
} lora_scratch;

/* lora_add, with memory that is kept. */
int32_t lora_delta(lora_scratch *own, float *y, int64_t y_stride, const void *x, int64_t x_stride, lora_group *groups,
                   int32_t count, int32_t isa, int32_t threads);

#endif
