/* Block primitives of the Cython twin: what is done to a run of classes that lies in the cache.
 *
 * Notation: x_j a logit, m the largest logit of the row so far, n_j = rint(x_j / ln2).
 *
 *     exp(x_j - m) = 2^(n_j - n_m) * e^(r_j) * e^(-r_m),      x_j = n_j * ln2 + r_j, |r_j| <= ln2/2
 *
 * x_j is reduced itself, so the difference x_j - m is never formed and never rounded: the power of
 * two is exact and e^(-r_m) is one float64 factor a row. docs/numerics.md derives it.
 */
#ifndef FASTXENT_PRIMITIVES_H
#define FASTXENT_PRIMITIVES_H

#include <stdlib.h>

#include "vector.h"

/* e^r = 1 + r + r^2 (...), minimax in relative error over |r| <= ln2/2, with coefficients that the
 * type holds exactly: 0.05 * 2^-24 (degree 6) and 0.03 * 2^-53 (degree 11).
 * docs/derive_exponential.py prints them. LN2_HIGH has so few bits that n * LN2_HIGH is exact for
 * every n that matters (|n| < 2^9 and 2^12). */
#if FASTXENT_REAL_BITS == 32
#define DEGREE 6
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0f, 1.0f, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f, 0x1.12399cp-7f, 0x1.6a4ecap-10f};
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define LOG2_E 0x1.715476p+0f
#define ROUNDER 0x1.8p+23f        /* adding it leaves the nearest integer in the low bits */
#define MANTISSA_BITS 23
#define EXPONENT_OFFSET 127
#define SPARE_EXPONENT 62         /* powers of two are kept this much too large */
#define SPARE_FACTOR 0x1p-62
#define EXACT_DIFFERENCE 208.0    /* beyond it x - m is exact for all x within 104 of m */
#else
#define DEGREE 11
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0, 1.0, 0x1.000000000000ap-1, 0x1.555555555550ap-3, 0x1.5555555550773p-5,
    0x1.1111111124d11p-7, 0x1.6c16c18446993p-10, 0x1.a01a013684148p-13, 0x1.a01999e21b19ep-16,
    0x1.71df0f7ce0458p-19, 0x1.28ad8a5ee467fp-22, 0x1.ad9c208a16602p-26};
#define LN2_HIGH 0x1.62e42fefap-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define LOG2_E 0x1.71547652b82fep+0
#define ROUNDER 0x1.8p+52
#define MANTISSA_BITS 52
#define EXPONENT_OFFSET 1023
#define SPARE_EXPONENT 512
#define SPARE_FACTOR 0x1p-512
#define EXACT_DIFFERENCE 1490.0
#endif

/* A block is the largest run of classes handled at once; it and its copy fit the L1 cache. */
#define BLOCK 1024
/* Reals ahead of the exponentials that memory is asked for the logits: measured best 2048-4096. */
#define PREFETCH_DISTANCE 4096

/* What exponentials are taken relative to. */
typedef struct {
  real maximum;  /* m, or NaN (which equals nothing) while no finite logit has been seen */
  real shift;    /* m where x - m is exact, else 0 */
  real lowest;   /* x - shift is raised to it: there the power of two is exactly 0 */
  real rounder;  /* ROUNDER with the exponent's offset and -n_m in its low bits */
  double factor; /* e^(-r_m) * SPARE_FACTOR: what the sums are multiplied by in the end */
} Reference;

static inline Reference reference_at(double maximum) {
  const double ln2 = 0x1.62e42fefa39efp-1;
  const int finite = maximum - maximum == 0;
  const double m = finite ? maximum : 0.0;
  const double shift = fabs(m) > EXACT_DIFFERENCE ? m : 0.0;
  const double n = rint((m - shift) * 0x1.71547652b82fep+0);
  const double high = (m - shift) - n * LN2_HIGH;
  const double r = high - n * (FASTXENT_REAL_BITS == 32 ? ln2 - LN2_HIGH : LN2_LOW);
  const double lowest = n - (SPARE_EXPONENT + EXPONENT_OFFSET);
  Reference reference;
  reference.maximum = (real)(finite ? maximum : NAN);
  reference.shift = (real)shift;
  reference.lowest = (real)(lowest * ln2);
  reference.rounder = (real)(ROUNDER + (SPARE_EXPONENT + EXPONENT_OFFSET) - n);
  reference.factor = exp(-r) * SPARE_FACTOR;
  return reference;
}

/* The power of two to multiply scale * 2^exponent by so that `real` holds it with all its digits: 0
 * unless it is far from SPARE_FACTOR, as tiny or huge target masses make it. The limits keep every
 * power of two that a reference shifted by it can give within the normal range. */
static inline int balancing_exponent(double scale, int exponent) {
  const int most = SPARE_EXPONENT + EXPONENT_OFFSET - 8, least = -(SPARE_EXPONENT - 4);
  int own = 0;
  if (!(fabs(scale) > 0.0 && fabs(scale) < (double)INFINITY)) return 0;
  frexp(scale, &own);
  const int distance = -SPARE_EXPONENT - (own + exponent);
  if (abs(distance) <= SPARE_EXPONENT / 2) return 0;
  return distance > most ? most : distance < least ? least : distance;
}

/* The same reference for powers of two that are 2^exponent smaller. */
static inline Reference shift_exponent(Reference reference, int exponent) {
  reference.rounder -= (real)exponent;
  reference.lowest += (real)(exponent * 0x1.62e42fefa39efp-1);
  reference.factor = ldexp(reference.factor, exponent);
  return reference;
}

/* exp(x - m) / factor = power * (1 + r * slope), with slope = (e^r - 1) / r. */
typedef struct {
  vec power;
  vec r;
  vec slope;
} Reduced;

/* A NaN stays NaN; for -inf, or anything far below m, the power is exactly 0. */
static inline Reduced reduce(vec x, const Reference *reference) {
  const vec rounder = broadcast(reference->rounder);
  const vec d = maximum(broadcast(reference->lowest), x - broadcast(reference->shift));
  const vec t = multiply_add(d, broadcast(LOG2_E), rounder);
  const vec n = rounder - t;
  vec r = multiply_add(n, broadcast(LN2_HIGH), d);
  r = multiply_add(n, broadcast(LN2_LOW), r);
  vec slope = broadcast(COEFFICIENTS[DEGREE]);
#pragma GCC unroll 16
  for (int k = DEGREE - 1; k > 0; k--) slope = multiply_add(slope, r, broadcast(COEFFICIENTS[k]));
  return (Reduced){(vec)((vec_bits)t << MANTISSA_BITS), r, slope};
}

/* scale * exp(x - m) / factor, rounded once more than scale is: e^r itself is never rounded. */
static inline vec scaled_exponential(vec x, const Reference *reference, vec scale) {
  const Reduced reduced = reduce(x, reference);
  const vec power = scale * reduced.power;
  return multiply_add(power, reduced.slope * reduced.r, power);
}

/* ---- reading and writing a block -------------------------------------------------------------- */

/* Element types in memory; the numbers are those of fastxent/backends/context.py. */
enum { FLOAT16 = 0, BFLOAT16 = 1, FLOAT32 = 2, FLOAT64 = 3 };

#define OWN_ELEMENT (FASTXENT_REAL_BITS == 32 ? FLOAT32 : FLOAT64)

static inline int64_t element_size(int64_t element) {
  return element == FLOAT64 ? 8 : element == FLOAT32 ? 4 : 2;
}

static inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* IEEE binary16 in integer arithmetic, for instruction sets without the conversion. */
static inline float widen_float16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  /* exponent and mantissa land 112 too low; the product is exact, subnormals included */
  return float_of_bits(sign | bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f));
}

static inline uint16_t narrow_float16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    /* subnormal: adding 0.5 leaves the result, rounded to even, in the low bits */
    const float shifted = float_of_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (bits_of_float(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

static inline uint16_t narrow_bfloat16(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

static inline void widen_float16_block(const uint16_t *source, int64_t n, real *block) {
  int64_t j = 0;
#if defined(__F16C__) && FASTXENT_REAL_BITS == 32
  for (; j + 8 <= n; j += 8)
    _mm256_storeu_ps(block + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(source + j))));
#endif
  for (; j < n; j++) block[j] = (real)widen_float16(source[j]);
}

static inline void narrow_float16_block(const real *block, int64_t n, uint16_t *destination) {
  int64_t j = 0;
#if defined(__F16C__) && FASTXENT_REAL_BITS == 32
  for (; j + 8 <= n; j += 8)
    _mm_storeu_si128((__m128i *)(destination + j),
                     _mm256_cvtps_ph(_mm256_loadu_ps(block + j), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; j < n; j++) destination[j] = narrow_float16((float)block[j]);
}

/* n elements as reals: where they lie, or converted into `buffer` (BLOCK reals). */
static inline const real *load_block(const char *source, int64_t element, int64_t n,
                                     real *buffer) {
  if (element == OWN_ELEMENT) return (const real *)source;
  if (element == FLOAT16) {
    widen_float16_block((const uint16_t *)source, n, buffer);
  } else if (element == BFLOAT16) {
    const uint16_t *halves = (const uint16_t *)source;
    for (int64_t j = 0; j < n; j++) buffer[j] = (real)float_of_bits((uint32_t)halves[j] << 16);
  } else if (element == FLOAT32) {
    for (int64_t j = 0; j < n; j++) buffer[j] = (real)((const float *)source)[j];
  } else {
    for (int64_t j = 0; j < n; j++) buffer[j] = (real)((const double *)source)[j];
  }
  return buffer;
}

/* Where a block's results go first: to their place, or to `buffer` until store_block converts. */
static inline real *output_block(char *destination, int64_t element, real *buffer) {
  return element == OWN_ELEMENT ? (real *)destination : buffer;
}

static inline void store_block(const real *block, int64_t n, char *destination, int64_t element) {
  if (element == OWN_ELEMENT) return;
  if (element == FLOAT16) {
    narrow_float16_block(block, n, (uint16_t *)destination);
  } else {
    uint16_t *halves = (uint16_t *)destination;
    for (int64_t j = 0; j < n; j++) halves[j] = narrow_bfloat16((float)block[j]);
  }
}

static inline double load_element(const char *source, int64_t element) {
  real value[1];
  return (double)*load_block(source, element, 1, value);
}

static inline void store_element(char *destination, int64_t element, double value) {
  const real rounded = (real)value;
  if (element == OWN_ELEMENT)
    *(real *)destination = rounded;
  else
    store_block(&rounded, 1, destination, element);
}

/* ---- passes over a block ---------------------------------------------------------------------- */

/* The largest of n logits, -inf where there is none; a NaN is passed over. */
static inline double block_maximum(const real *logits, int64_t n) {
  vec columns[4];
  for (int c = 0; c < 4; c++) columns[c] = broadcast((real)-INFINITY);
  int64_t j = 0;
  for (; j + 4 * LANES <= n; j += 4 * LANES)
    for (int c = 0; c < 4; c++) columns[c] = maximum(load(logits + j + c * LANES), columns[c]);
  for (; j + LANES <= n; j += LANES) columns[0] = maximum(load(logits + j), columns[0]);
  if (j < n)
    columns[0] = maximum(load_partial(logits + j, n - j, (real)-INFINITY), columns[0]);
  columns[0] = maximum(maximum(columns[0], columns[1]), maximum(columns[2], columns[3]));
  real largest = columns[0][0];
  for (int k = 1; k < (int)LANES; k++)
    largest = columns[0][k] > largest ? columns[0][k] : largest;
  return (double)largest;
}

typedef struct {
  double count;
  double rest;
  double rest_lost;
} BlockSum;

/* exp(x - m) / factor = power + part, not added up: e^r = 1 + part/power would be rounded. Both
 * are 0 where x = m, which adds to count instead. */
typedef struct {
  vec power;
  vec part;
} Term;

static inline Term block_term(vec x, const Reference *reference, int64_t *count) {
  const Reduced reduced = reduce(x, reference);
  const vec power = clear_equal(reduced.power, x, broadcast(reference->maximum), count);
  return (Term){power, power * (reduced.slope * reduced.r)};
}

static inline Term add_terms(Term a, Term b) {
  return (Term){a.power + b.power, a.part + b.part};
}

/* count: how many logits equal m; rest: the sum of exp(x_j - m) over the others; rest_lost: what
 * rounding has lost of it since the lanes were folded. Eight lines are added as a binary tree, which is exact for equal terms, and then go on in float64. */
static inline BlockSum block_sum(const real *logits, int64_t n, Reference reference) {
  line_sum powers, parts;
  memset(&powers, 0, sizeof powers);
  memset(&parts, 0, sizeof parts);
  int64_t count = 0, j = 0;
  for (; j + 8 * LINE <= n; j += 8 * LINE) {
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++) {
      const real *x = logits + j + c * LANES;
      Term pairs[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; k++) {
        __builtin_prefetch(x + 2 * k * LINE + PREFETCH_DISTANCE);
        __builtin_prefetch(x + (2 * k + 1) * LINE + PREFETCH_DISTANCE);
        pairs[k] = add_terms(block_term(load(x + 2 * k * LINE), &reference, &count),
                             block_term(load(x + (2 * k + 1) * LINE), &reference, &count));
      }
      const Term total =
          add_terms(add_terms(pairs[0], pairs[1]), add_terms(pairs[2], pairs[3]));
      line_sum_add(&powers, c, total.power);
      line_sum_add(&parts, c, total.part);
    }
  }
  if (j < n) {
    Term columns[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) columns[c] = (Term){broadcast(0), broadcast(0)};
    for (; j + LINE <= n; j += LINE) {
      __builtin_prefetch(logits + j + PREFETCH_DISTANCE);
      for (int c = 0; c < COLUMNS; c++)
        columns[c] = add_terms(columns[c],
                               block_term(load(logits + j + c * LANES), &reference, &count));
    }
    for (int c = 0; c < COLUMNS && j + c * LANES < n; c++) {
      const int64_t left = n - j - c * LANES;
      const real *place = logits + j + c * LANES;
      const vec x = left >= LANES ? load(place) : load_partial(place, left, (real)-INFINITY);
      columns[c] = add_terms(columns[c], block_term(x, &reference, &count));
    }
    for (int c = 0; c < COLUMNS; c++) {
      line_sum_add(&powers, c, columns[c].power);
      line_sum_add(&parts, c, columns[c].part);
    }
  }
  /* |part| < power, so the sum's error is exact (Dekker); that of the product is by fma */
  const double power = line_sum_total(&powers), part = line_sum_total(&parts);
  const double sum = power + part;
  const double rest = sum * reference.factor;
  const double rest_lost =
      fma(sum, reference.factor, -rest) + (part - (sum - power)) * reference.factor;
  return (BlockSum){(double)count, rest, rest_lost};
}

typedef struct {
  double dot;
  double dot_lost;
  double mass;
  double mass_lost;
} BlockTarget;

/* a + b minus its rounded value, exactly (Knuth); 0 for an infinite sum. */
static inline double sum_error(double a, double b) {
  const double total = a + b, part = total - a;
  const double error = (a - (total - part)) + (b - part);
  return total - total == 0 ? error : 0.0;
}

/* dot: sum of t_j * (m - x_j), where a class without mass costs nothing whatever its logit;
 * mass: sum of t_j. In float64 throughout: both are sums of products of the inputs. */
static inline BlockTarget block_target(const real *logits, const real *targets, int64_t n,
                                       double maximum) {
  enum { N = 64 / sizeof(real), GROUP = 8 * N };
  double dots[N] = {0}, masses[N] = {0}, dots_lost[N] = {0}, masses_lost[N] = {0};
  for (int64_t j = 0; j < n; j += GROUP) {
    /* eight lines at a time, folded in half as in block_sum; what is missing adds 0 */
    double terms[GROUP], weights[GROUP];
    const int64_t left = n - j < GROUP ? n - j : GROUP;
    for (int64_t k = 0; k < left; k++) {
      weights[k] = (double)targets[j + k];
      const double term = weights[k] * (maximum - (double)logits[j + k]);
      terms[k] = weights[k] == 0 ? 0.0 : term;
    }
    for (int64_t k = left; k < GROUP; k++) weights[k] = terms[k] = 0.0;
    for (int half = GROUP / 2; half >= N; half /= 2)
      for (int k = 0; k < half; k++) {
        terms[k] += terms[k + half];
        weights[k] += weights[k + half];
      }
    for (int k = 0; k < N; k++) {
      dots_lost[k] += sum_error(dots[k], terms[k]);
      masses_lost[k] += sum_error(masses[k], weights[k]);
      dots[k] += terms[k];
      masses[k] += weights[k];
    }
  }
  for (int half = N / 2; half > 0; half /= 2)
    for (int k = 0; k < half; k++) {
      dots_lost[k] += dots_lost[k + half] + sum_error(dots[k], dots[k + half]);
      masses_lost[k] += masses_lost[k + half] + sum_error(masses[k], masses[k + half]);
      dots[k] += dots[k + half];
      masses[k] += masses[k + half];
    }
  return (BlockTarget){dots[0], dots_lost[0], masses[0], masses_lost[0]};
}

/* output_j = scale * exp(x_j - m) / factor */
static inline void block_softmax(const real *logits, int64_t n, Reference reference, double scale,
                                 real *output) {
  const vec scales = broadcast((real)scale);
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES)
    store(output + j, scaled_exponential(load(logits + j), &reference, scales));
  if (j < n) {
    const vec x = load_partial(logits + j, n - j, 0);
    store_partial(output + j, scaled_exponential(x, &reference, scales), n - j);
  }
}

/* output_j = scale * exp(x_j - m) / factor - target_scale * t_j, except at a logit x_j = m that has
 * more than half of the softmax: there A*p_j - t_j = (A - t_j) - A*(sum_exp - 1)/sum_exp, which
 * keeps its digits as p_j comes close to 1 (A is the mass of t, `others` is 1 - p_j). */
static inline void block_softmax_minus_target(const real *logits, const real *targets, int64_t n,
                                              Reference reference, double scale,
                                              double target_scale, double mass,
                                              double mass_lost, double others, real *output) {
  const vec scales = broadcast((real)scale), target_scales = broadcast((real)-target_scale);
  for (int64_t j = 0; j < n; j += LANES) {
    const int64_t left = n - j < LANES ? n - j : LANES;
    const vec x = left == LANES ? load(logits + j) : load_partial(logits + j, left, 0);
    const vec t = left == LANES ? load(targets + j) : load_partial(targets + j, left, 0);
    vec value = scaled_exponential(x, &reference, scales) + t * target_scales;
    if (others < 0.5 && any_equal(x, broadcast(reference.maximum)))
      for (int64_t k = 0; k < left; k++)
        if (x[k] == reference.maximum)
          value[k] = (real)(target_scale *
                          (((mass - (double)t[k]) + mass_lost) - mass * others));
    if (left == LANES)
      store(output + j, value);
    else
      store_partial(output + j, value, left);
  }
}

/* output_j = (x_j - m) - log(sum_exp) */
static inline void block_log_softmax(const real *logits, int64_t n, double maximum,
                                     double log_sum_exp, real *output) {
  const vec m = broadcast((real)maximum), log_sum = broadcast((real)log_sum_exp);
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) store(output + j, (load(logits + j) - m) - log_sum);
  if (j < n)
    store_partial(output + j, (load_partial(logits + j, n - j, 0) - m) - log_sum, n - j);
}

#endif
