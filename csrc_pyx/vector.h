/* Native vectors of `real`, the type the arithmetic is done in.
 *
 * The build chooses `real` (-DFASTXENT_REAL_BITS=32 or 64) and the instruction set (-march); this
 * file turns the two into one vocabulary, so that nothing below it mentions either:
 *
 *     vec          as many reals as one register holds, LANES of them
 *     LINE         the reals in 64 bytes; every sum runs over lines in one fixed order, so that
 *                  the order does not depend on the width of the registers
 *     COLUMNS      native vectors in a line
 *
 * gcc's vector extensions are used at the width of the registers only: wider ones are scalarised
 * (20 times slower with gcc 12).
 */
#ifndef FASTXENT_VECTOR_H
#define FASTXENT_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if FASTXENT_REAL_BITS == 32
typedef float real;
typedef int32_t real_bits;
#elif FASTXENT_REAL_BITS == 64
typedef double real;
typedef int64_t real_bits;
#else
#error "FASTXENT_REAL_BITS must be 32 or 64"
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define LINE ((int64_t)(64 / sizeof(real)))
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(real)))
#define COLUMNS (64 / VECTOR_BYTES)

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits vec_bits __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline vec broadcast(real value) { return value - (vec){0}; }

static inline vec load(const real *source) { return *(const vec_unaligned *)source; }

static inline void store(real *destination, vec value) {
  *(vec_unaligned *)destination = value;
}

/* Only the first `n` lanes are read (or written); the others hold `fill`. */
static inline vec load_partial(const real *source, int64_t n, real fill) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), source);
#elif defined(__AVX512F__)
  return (vec)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)((1u << n) - 1), source);
#else
  real line[VECTOR_BYTES / sizeof(real)];
  for (int64_t j = 0; j < LANES; j++) line[j] = j < n ? source[j] : fill;
  return load(line);
#endif
}

static inline void store_partial(real *destination, vec value, int64_t n) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  _mm512_mask_storeu_ps(destination, (__mmask16)((1u << n) - 1), (__m512)value);
#elif defined(__AVX512F__)
  _mm512_mask_storeu_pd(destination, (__mmask8)((1u << n) - 1), (__m512d)value);
#else
  real line[VECTOR_BYTES / sizeof(real)];
  store(line, value);
  for (int64_t j = 0; j < n; j++) destination[j] = line[j];
#endif
}

/* a > b ? a : b, hence b where either is NaN: the order of the arguments matters. */
static inline vec maximum(vec a, vec b) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX512F__)
  return (vec)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__AVX2__)
  return (vec)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(__SSE2__)
  return (vec)_mm_max_pd((__m128d)a, (__m128d)b);
#else
  vec_bits greater = a > b;
  return (vec)((greater & (vec_bits)a) | (~greater & (vec_bits)b));
#endif
}

/* a * b + c, rounded once where the instruction set has the operation (all but x86-64-v2). */
static inline vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX512F__)
  return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__) && FASTXENT_REAL_BITS == 32
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
  return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__) && FASTXENT_REAL_BITS == 32
  for (int k = 0; k < 4; k++) c[k] = __builtin_fmaf(a[k], b[k], c[k]);
  return c;
#elif defined(__aarch64__)
  for (int k = 0; k < 2; k++) c[k] = __builtin_fma(a[k], b[k], c[k]);
  return c;
#else
  return a * b + c;
#endif
}

/* Lanes of `value` where `mask` is set, 0 elsewhere. */
static inline vec keep(vec_bits mask, vec value) { return (vec)(mask & (vec_bits)value); }

/* `value` where x differs from y (or either is NaN) and 0 where they are equal; adds the number
 * of equal lanes to `count`. */
static inline vec clear_equal(vec value, vec x, vec y, int64_t *count) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  __mmask16 differs = _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_NEQ_UQ);
  *count += 16 - __builtin_popcount(differs);
  return (vec)_mm512_maskz_mov_ps(differs, (__m512)value);
#elif defined(__AVX512F__)
  __mmask8 differs = _mm512_cmp_pd_mask((__m512d)x, (__m512d)y, _CMP_NEQ_UQ);
  *count += 8 - __builtin_popcount(differs);
  return (vec)_mm512_maskz_mov_pd(differs, (__m512d)value);
#else
  vec_bits equal = x == y;
#if defined(__AVX2__) && FASTXENT_REAL_BITS == 32
  *count += __builtin_popcount((unsigned)_mm256_movemask_ps((__m256)equal));
#elif defined(__AVX2__)
  *count += __builtin_popcount((unsigned)_mm256_movemask_pd((__m256d)equal));
#elif defined(__SSE2__) && FASTXENT_REAL_BITS == 32
  *count += __builtin_popcount((unsigned)_mm_movemask_ps((__m128)equal));
#elif defined(__SSE2__)
  *count += __builtin_popcount((unsigned)_mm_movemask_pd((__m128d)equal));
#else
  for (int k = 0; k < (int)LANES; k++) *count -= equal[k];
#endif
  return keep(~equal, value);
#endif
}

/* True where any lane of x equals the same lane of y. */
static inline int any_equal(vec x, vec y) {
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_EQ_OQ) != 0;
#elif defined(__AVX512F__)
  return _mm512_cmp_pd_mask((__m512d)x, (__m512d)y, _CMP_EQ_OQ) != 0;
#else
  int64_t count = 0;
  clear_equal(x, x, y, &count);
  return count != 0;
#endif
}

/* Sums in float64, one for each real of a line. */
typedef struct {
#if FASTXENT_REAL_BITS == 32
  double __attribute__((vector_size(VECTOR_BYTES))) lanes[2 * COLUMNS];
#else
  vec lanes[COLUMNS];
#endif
} line_sum;

static inline void line_sum_add(line_sum *sum, int column, vec value) {
#if FASTXENT_REAL_BITS == 64
  sum->lanes[column] += value;
#elif defined(__AVX512F__)
  sum->lanes[0] += _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)value));
  sum->lanes[1] += _mm512_cvtps_pd(
      _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)value), 1)));
#elif defined(__AVX2__)
  sum->lanes[2 * column] += _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)value));
  sum->lanes[2 * column + 1] += _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)value, 1));
#elif defined(__SSE2__)
  sum->lanes[2 * column] += _mm_cvtps_pd((__m128)value);
  sum->lanes[2 * column + 1] += _mm_cvtps_pd(_mm_movehl_ps((__m128)value, (__m128)value));
#else
  for (int k = 0; k < 4; k++) sum->lanes[2 * column + k / 2][k % 2] += value[k];
#endif
}

/* The lanes folded in half until one is left: the same order at every register width. */
static inline double line_sum_total(const line_sum *sum) {
  double lanes[64 / sizeof(real)];
  memcpy(lanes, sum->lanes, sizeof lanes);
  for (int half = (int)LINE / 2; half > 0; half /= 2)
    for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
  return lanes[0];
}

#endif
