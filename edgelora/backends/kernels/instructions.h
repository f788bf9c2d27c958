/* The two products of a delta for every instruction set there is: lora_kernels.h once over each set's vectors, and the
 * widening they share. For lora.c alone.
 */
#ifndef EDGELORA_INSTRUCTIONS_H
#define EDGELORA_INSTRUCTIONS_H

#include "delta.h"

#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define LORA_X86 1
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Columns of b that are used for all rows before the next. */
#define PANEL 256
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

#endif
