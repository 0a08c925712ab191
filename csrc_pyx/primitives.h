/* Block primitives of the Cython twin: what is done to a run of classes that lies in the cache.
 *
 * Notation: x_j a logit, m the largest logit of the row so far, s = 2^TABLE_BITS steps to a power of
 * two, n_j = rint(x_j * s / ln2), n_m = s * rint(m / ln2).
 *
 *     exp(x_j - m) = 2^((n_j - n_m)/s) * e^(r_j) * e^(-r_m),
 *     x_j = n_j * ln2/s + r_j,  |r_j| <= ln2/(2s)
 *
 * x_j is reduced itself, so the difference x_j - m is never formed and never rounded: the power of
 * two is looked up and its rounding error with it, and e^(-r_m) is one float64 factor a row.
 * docs/numerics.md derives it.
 */
#ifndef FASTXENT_PRIMITIVES_H
#define FASTXENT_PRIMITIVES_H

#include <stdlib.h>

#include "context.h"
#include "vector.h"

/* e^r = 1 + r + r^2 (...), minimax in relative error over |r| <= ln2/(2s), with coefficients that
 * the type holds exactly; docs/derive_exponential.py prints them and their errors: at most 0.053
 * units of 2^-24, 0.034 of 2^-53. The more steps to a power of two, the lower the degree, and
 * multiply-adds are what the pass over the exponentials waits for.
 *
 * LN2_HIGH has so few bits that n * LN2_HIGH is exact for every n that matters where there is no
 * fused multiply-add (s = 1, |n| < 2^9 and 2^12). */
#if FASTXENT_REAL_BITS == 32
#if TABLE_BITS == 4
#define DEGREE 3
static const real COEFFICIENTS[DEGREE + 1] = {1.0f, 1.0f, 0x1.00021ep-1f, 0x1.555598p-3f};
#elif TABLE_BITS == 3
#define DEGREE 4
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0f, 1.0f, 0x1p-1f, 0x1.555c70p-3f, 0x1.555664p-5f};
#else
#define DEGREE 6
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0f, 1.0f, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f, 0x1.12399cp-7f, 0x1.6a4ecap-10f};
#endif
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
#if TABLE_BITS == 3
#define DEGREE 7
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0, 1.0, 0x1.000000000010bp-1, 0x1.555555555512ep-3, 0x1.555555480bc0ep-5,
    0x1.11111125e58fap-7, 0x1.6c1cbe4eb57b6p-10, 0x1.a0163741ab3e9p-13};
#else
#define DEGREE 11
static const real COEFFICIENTS[DEGREE + 1] = {
    1.0, 1.0, 0x1.000000000000ap-1, 0x1.555555555550ap-3, 0x1.5555555550773p-5,
    0x1.1111111124d11p-7, 0x1.6c16c18446993p-10, 0x1.a01a013684148p-13, 0x1.a01999e21b19ep-16,
    0x1.71df0f7ce0458p-19, 0x1.28ad8a5ee467fp-22, 0x1.ad9c208a16602p-26};
#endif
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

#include "transform.h" /* needs the constants above */

/* 2^(i/s), rounded, and what rounding has left out of it: 2^(i/s) = POWERS[i] * (1 + CORRECTIONS[i]);
 * derived in docs/derive_exponential.py too. */
#define STEPS (1 << TABLE_BITS)
#if FASTXENT_REAL_BITS == 32 && TABLE_BITS == 4
static const real POWERS[STEPS] = {
    0x1p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fep+0f, 0x1.3dea64p+0f,
    0x1.4bfdaep+0f, 0x1.5ab07ep+0f, 0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f,
    0x1.9c4918p+0f, 0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
static const real CORRECTIONS[STEPS] = {
    0x0p+0f, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964904p-25f, 0x1.125002p-25f,
    0x1.370be4p-25f, -0x1.0a355p-25f, -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f,
    0x1.67a1cap-28f, 0x1.a3b5e4p-28f, -0x1.f9c304p-27f, -0x1.6961b4p-28f, -0x1.a5217cp-28f,
    0x1.61428ep-28f};
#elif FASTXENT_REAL_BITS == 32 && TABLE_BITS == 3
static const real POWERS[STEPS] = {
    0x1p+0f, 0x1.172b84p+0f, 0x1.306fep+0f, 0x1.4bfdaep+0f, 0x1.6a09e6p+0f, 0x1.8ace54p+0f,
    0x1.ae89fap+0f, 0x1.d5818ep+0f};
static const real CORRECTIONS[STEPS] = {
    0x0p+0f, -0x1.9c0c22p-27f, 0x1.125002p-25f, -0x1.0a355p-25f, 0x1.26055cp-26f,
    0x1.67a1cap-28f, -0x1.f9c304p-27f, -0x1.a5217cp-28f};
#elif FASTXENT_REAL_BITS == 64 && TABLE_BITS == 3
static const real POWERS[STEPS] = {
    0x1p+0, 0x1.172b83c7d517bp+0, 0x1.306fe0a31b715p+0, 0x1.4bfdad5362a27p+0,
    0x1.6a09e667f3bcdp+0, 0x1.8ace5422aa0dbp+0, 0x1.ae89f995ad3adp+0, 0x1.d5818dcfba487p+0};
static const real CORRECTIONS[STEPS] = {
    0x0p+0, -0x1.01b15eaa59348p-55, 0x1.34d754db0abb6p-55, 0x1.690cebb7aafbp-56,
    -0x1.3b3efbf5e2228p-54, 0x1.db72fc1f0eab4p-55, 0x1.c1a7792cb3387p-55, 0x1.4a385a63d07a7p-56};
#endif

/* A block is the largest run of classes handled at once; it and its copy fit the L1 cache. */
#define BLOCK 1024
/* Lines whose exponentials are added before anything is added to the sums. */
#define GROUP (8 * LINE)
/* Reals ahead of the exponentials that memory is asked for the logits: measured best 4096 to 8192. */
#define PREFETCH_DISTANCE 4096

/* What exponentials are taken relative to. */
typedef struct {
  double shift;  /* m where x - m is exact, else 0; what follows is for logits less the shift */
  real maximum;  /* m, or NaN (which equals nothing) while no finite logit has been seen */
  real lowest;   /* logits are raised to it: there the power of two is exactly 0 */
  real rounder;  /* ROUNDER with the exponent's offset and -n_m in its low bits */
  double factor; /* e^(-r_m) * SPARE_FACTOR: what the sums are multiplied by in the end */
} Reference;

static inline Reference reference_at(double maximum) {
  const double ln2 = 0x1.62e42fefa39efp-1;
  const int finite = maximum - maximum == 0;
  const double shift = finite && fabs(maximum) > EXACT_DIFFERENCE ? maximum : 0.0;
  const double m = finite ? maximum - shift : 0.0;
  const double n = STEPS * rint(m * 0x1.71547652b82fep+0); /* a whole power of two: see Kept */
  const double high = m - n * (LN2_HIGH / STEPS);
  const double r = high - n * ((FASTXENT_REAL_BITS == 32 ? ln2 - LN2_HIGH : LN2_LOW) / STEPS);
  const double lowest = n - STEPS * (SPARE_EXPONENT + EXPONENT_OFFSET);
  Reference reference;
  reference.shift = shift;
  reference.maximum = finite ? (real)m : (real)NAN;
  reference.lowest = (real)(lowest * (ln2 / STEPS));
  reference.rounder = (real)(ROUNDER + STEPS * (SPARE_EXPONENT + EXPONENT_OFFSET) - n);
  reference.factor = exp(-r) * SPARE_FACTOR;
  return reference;
}

/* What an output is multiplied by is kept between these two, where every result that `real` holds is
 * computed with all its digits; the power of two that is missing comes last. */
#define LEAST_OUTPUT_EXPONENT (-(SPARE_EXPONENT / 2))
#define MOST_OUTPUT_EXPONENT SPARE_EXPONENT
/* Neither it nor its product with the mass is beyond 2 to this: times the 0 of a masked class, infinity
 * would be NaN. */
#define LARGEST_OUTPUT_EXPONENT (FASTXENT_REAL_BITS == 32 ? 120 : 1000)
#define LEAST_OUTPUT_SCALE (FASTXENT_REAL_BITS == 32 ? 0x1p-32 : 0x1p-257)
#define MOST_OUTPUT_SCALE (FASTXENT_REAL_BITS == 32 ? 0x1p62 : 0x1p512)

/* Between these `balancing_exponent` is 0. */
#define LEAST_BALANCED_SCALE (FASTXENT_REAL_BITS == 32 ? 0x1p-94 : 0x1p-769)
#define MOST_BALANCED_SCALE (FASTXENT_REAL_BITS == 32 ? 0x1p-31 : 0x1p-256)

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
  reference.rounder -= (real)(STEPS * exponent);
  reference.lowest += (real)(exponent * 0x1.62e42fefa39efp-1);
  reference.factor = ldexp(reference.factor, exponent);
  return reference;
}

/* Of terms relative to another maximum; times 2^-126 it is half of the smallest float32. */
#define MOST_KEPT_SCALE 0x1p-24

/* Exponentials of a row that are kept for its output, and what they were taken relative to: its
 * largest logit may come after them. Taken relative to that they are the same but for a power of
 * two, unless the logits have been shifted or transformed relative to another one. */
typedef struct {
  real *terms;
  real rounders[SCRATCH_CLASSES / BLOCK];
  double origins[SCRATCH_CLASSES / BLOCK];
} Kept;

/* Room for those of SEGMENT classes; LANES are read at the end of a row. */
typedef struct {
  real terms[SEGMENT + LANES];
} TermsBuffer;

/* Where the terms of the block at class j are put, or NULL where none are kept. */
static inline real *keep_terms(Kept *kept, int64_t j, double origin, Reference reference) {
  if (!kept) return NULL;
  kept->origins[j / BLOCK] = origin;
  kept->rounders[j / BLOCK] = reference.rounder;
  return kept->terms + j;
}

/* The terms of the block at class j, and in `scale` what times them is what it was times those of
 * this reference; NULL if none are kept or they do not serve, as where that would be a subnormal
 * number. A term that is below 2^-126 relative to this one, but not to that it was kept with, is
 * more exact than it would be: up to MOST_KEPT_SCALE it comes to 0 either way. */
static inline const real *kept_terms(const Kept *kept, int64_t j, double origin,
                                     Reference reference, double *scale) {
  if (!kept || kept->origins[j / BLOCK] != origin || *scale != *scale) return NULL;
  const double steps = (double)reference.rounder - (double)kept->rounders[j / BLOCK];
  if (!(steps <= 0 && steps >= -STEPS * (SPARE_EXPONENT / 2))) return NULL;
  const double own_scale = ldexp(*scale, (int)steps / STEPS);
  if (steps != 0 && !(fabs(own_scale) >= 0x1p-126 && fabs(*scale) <= MOST_KEPT_SCALE))
    return NULL;
  *scale = own_scale;
  return kept->terms + j;
}

/* What is looked up by lane. A lane's power of two is an integer sum: the step's bits, less what
 * the shifted index itself puts there. */
typedef struct {
  vec powers;
  vec corrections;
} Table;

static inline Table make_table(void) {
  Table table = {broadcast(0), broadcast(0)};
#if TABLE_BITS > 0
  const vec_bits index = {EXCHANGED_LANES(0)};
  table.powers = (vec)((vec_bits)load(POWERS) - (vec_bits)broadcast(1) -
                       (index << (MANTISSA_BITS - TABLE_BITS)));
  table.corrections = load(CORRECTIONS);
#endif
  return table;
}

/* exp(x - m) / factor = power * (1 + part) */
typedef struct {
  vec power;
  vec part;
} Reduced;

/* A NaN stays NaN; for -inf, or anything far below m, the power is exactly 0. */
INLINED Reduced reduce_with(vec x, vec lowest, vec rounder, const Table *table) {
  const vec d = maximum(lowest, x);
  const vec t = multiply_add(d, broadcast(STEPS * LOG2_E), rounder);
  const vec n = rounder - t;
  vec r = multiply_add(n, broadcast(LN2_HIGH / STEPS), d);
  r = multiply_add(n, broadcast(LN2_LOW / STEPS), r);
  vec slope = broadcast(COEFFICIENTS[DEGREE]);
#pragma GCC unroll 16
  for (int k = DEGREE - 1; k > 0; k--) slope = multiply_add(slope, r, broadcast(COEFFICIENTS[k]));
  const vec_bits bits = (vec_bits)t << (MANTISSA_BITS - TABLE_BITS);
#if TABLE_BITS > 0
  return (Reduced){(vec)(bits + (vec_bits)lookup(table->powers, (vec_bits)t)),
                   multiply_add(slope, r, lookup(table->corrections, (vec_bits)t))};
#else
  return (Reduced){(vec)bits, slope * r};
#endif
}

INLINED Reduced reduce(vec x, const Reference *reference, const Table *table) {
  return reduce_with(x, broadcast(reference->lowest), broadcast(reference->rounder), table);
}

/* power * (1 + part), rounded once */
INLINED vec put_together(Reduced reduced) {
  return multiply_add(reduced.power, reduced.part, reduced.power);
}

/* The same times 1 + tail, for a tail far below 1. */
INLINED Reduced with_tail(Reduced reduced, vec tail) {
  reduced.part += multiply_add(tail, reduced.part, tail);
  return reduced;
}

INLINED vec scaled(Reduced reduced, vec scale) {
  reduced.power = scale * reduced.power;
  return put_together(reduced);
}

/* The same; in float32 the term is rounded first, as one that has been kept is. */
INLINED vec scaled_term(Reduced reduced, vec scale) {
  return FASTXENT_REAL_BITS == 32 ? put_together(reduced) * scale : scaled(reduced, scale);
}

/* ---- reading and writing a block -------------------------------------------------------------- */

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
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  for (; j + 16 <= n; j += 16)
    _mm512_storeu_ps(block + j, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(source + j))));
#elif defined(__F16C__) && FASTXENT_REAL_BITS == 32
  for (; j + 8 <= n; j += 8)
    _mm256_storeu_ps(block + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(source + j))));
#endif
  for (; j < n; j++) block[j] = (real)widen_float16(source[j]);
}

static inline void narrow_float16_block(const real *block, int64_t n, uint16_t *destination) {
  int64_t j = 0;
#if defined(__AVX512F__) && FASTXENT_REAL_BITS == 32
  for (; j + 16 <= n; j += 16)
    _mm256_storeu_si256((__m256i *)(destination + j),
                        _mm512_cvtps_ph(_mm512_loadu_ps(block + j), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && FASTXENT_REAL_BITS == 32
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
  } else if (element == FLOAT32) {
    for (int64_t j = 0; j < n; j++) ((float *)destination)[j] = (float)block[j];
  } else {
    uint16_t *halves = (uint16_t *)destination;
    for (int64_t j = 0; j < n; j++) halves[j] = narrow_bfloat16((float)block[j]);
  }
}

/* n values times 2^exponent, each rounded once. */
static inline void scale_values(real *values, int64_t n, int64_t stride, int exponent) {
  for (int64_t j = 0; j < n; j++)
    values[j * stride] = (real)ldexp((double)values[j * stride], exponent);
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

/* A block of a row, ready for the passes. The largest logit of each group is kept for the sum, which
 * looks for logits that equal m only where there is one. */
typedef struct {
  const real *logits;
  int64_t n;
  const char *ahead;    /* where the logits lie that memory is asked for meanwhile */
  const char *written;  /* where the lines lie that are about to be written, or NULL */
  int64_t line_bytes;   /* a line of logits in memory */
  double maximum;       /* -inf where there is no logit */
  vec group_maxima[BLOCK / GROUP];
  real buffer[BLOCK];
} Block;

/* What logits that are capped or divided by a temperature have besides: their differences to the
 * maximum are logits + tails, and the derivatives of what was done to them slopes + slope_tails. */
typedef struct {
  int caps; /* whether there are slopes; without a cap they are 1 */
  real tails[BLOCK];
  real slopes[BLOCK];
  real slope_tails[BLOCK];
} Transformed;

/* Elements j to j + n of a row at `row`, before its maximum is known. `output` is where the row's
 * output goes through the caches, or NULL. */
static inline void open_block(Block *block, const char *row, int64_t element, int64_t j, int64_t n,
                              const char *output) {
  const char *source = row + j * element_size(element);
  block->logits = load_block(source, element, n, block->buffer);
  block->n = n;
  block->ahead = source + PREFETCH_DISTANCE * element_size(element);
  block->written = output ? output + j * element_size(element) : NULL;
  block->line_bytes = LINE * element_size(element);
}

/* A NaN may hide other logits here; whatever comes of a row with a NaN is NaN. */
static inline vec group_maximum(Block *block, int64_t k) {
  const real *x = block->logits + k * GROUP;
  vec columns[4];
  for (int c = 0; c < 4; c++) columns[c] = load(x + c * LANES);
#pragma GCC unroll 32
  for (int c = 4; c < 8 * COLUMNS; c++)
    columns[c % 4] = maximum(load(x + c * LANES), columns[c % 4]);
  block->group_maxima[k] = maximum(maximum(columns[0], columns[1]), maximum(columns[2], columns[3]));
  return block->group_maxima[k];
}

/* Fills in the block's maximum; the first `done` groups are in `maxima` already. */
static inline void finish_maximum(Block *block, int64_t done, vec maxima) {
  const real *logits = block->logits;
  const int64_t n = block->n;
  for (int64_t k = done; k < n / GROUP; k++) maxima = maximum(group_maximum(block, k), maxima);
  int64_t j = n / GROUP * GROUP;
  for (; j + LANES <= n; j += LANES) maxima = maximum(load(logits + j), maxima);
  if (j < n) maxima = maximum(load_partial(logits + j, n - j, (real)-INFINITY), maxima);
  block->maximum = (double)fold_maximum(maxima);
}

static inline void block_maximum(Block *block) {
  finish_maximum(block, 0, broadcast((real)-INFINITY));
}

/* The logits less the shift, which is exact for all that matter; in the block's own buffer. */
static inline void shift_block(Block *block, double shift) {
  for (int64_t j = 0; j < block->n; j++)
    block->buffer[j] = block->logits[j] - (real)shift;
  block->logits = block->buffer;
}

/* The transformed logits less that of `maximum`, in the block's own buffer; their tails, and their
 * slopes if they are wanted. */
static inline void transform_block(Block *block, double maximum, double temperature, double softcap,
                                   int wants_slopes, Transformed *transformed) {
  const TransformReference reference = transform_relative_to(maximum, temperature, softcap);
  wants_slopes = wants_slopes && reference.transform.caps;
  transformed->caps = reference.transform.caps;
  for (int64_t j = 0; j < block->n; j += LANES) {
    const int64_t n = block->n - j < LANES ? block->n - j : LANES;
    const vec x =
        n == LANES ? load(block->logits + j) : load_partial(block->logits + j, n, (real)maximum);
    Pair difference, slope;
    if (wants_slopes) {
      difference = transformed_difference(x, &reference, &slope);
      store(transformed->slopes + j, slope.value);
      store(transformed->slope_tails + j, slope.low);
    } else {
      difference = transformed_difference(x, &reference, NULL);
    }
    store(block->buffer + j, difference.value);
    store(transformed->tails + j, difference.low);
  }
  block->logits = block->buffer;
}

typedef struct {
  double count;
  double rest;
  double rest_lost;
} BlockSum;

/* What smoothing spreads over the classes that are not masked. */
typedef struct {
  double dot; /* sum of w_j * (m - x_j) */
  double dot_lost;
  double mass; /* sum of w_j */
  double mass_lost;
  double count;
} BlockSpread;

/* w_j * (m - x_j), the weights being 1 where there are none. What is beyond `n` adds 0. */
INLINED vec spread_line(const real *logits, const real *class_weights, int64_t j, int64_t n,
                        vec m) {
  const vec x = n >= LANES ? load(logits + j) : load_partial(logits + j, n, m[0]);
  if (!class_weights) return m - x;
  return (m - x) * (n >= LANES ? load(class_weights + j) : load_partial(class_weights + j, n, 0));
}

/* exp(x - m) / factor */
INLINED vec block_term(vec x, const Reference *reference, const Table *table) {
  return put_together(reduce(x, reference, table));
}

/* That of the line at x + j; at terms + j it is left behind, unless that is NULL. */
INLINED vec kept_term(const real *x, int64_t j, const Reference *reference, const Table *table,
                      real *terms) {
  const vec term = block_term(load(x + j), reference, table);
  if (terms) store(terms + j, term);
  return term;
}

/* The same, but 0 where x = m, which adds to count instead. */
INLINED vec kept_term_but_maxima(const real *x, int64_t j, const Reference *reference,
                                 const Table *table, int64_t *count, real *terms) {
  const vec term = kept_term(x, j, reference, table, terms);
  return clear_equal(term, load(x + j), broadcast(reference->maximum), count);
}

/* Eight lines added as a binary tree: their terms, and what smoothing spreads over them. */
INLINED vec group_sum(const real *x, const Reference *reference, const Table *table, real *terms) {
  vec pairs[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++)
    pairs[k] = kept_term(x, 2 * k * LINE, reference, table, terms) +
               kept_term(x, (2 * k + 1) * LINE, reference, table, terms);
  return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3]);
}

INLINED vec group_sum_but_maxima(const real *x, const Reference *reference, const Table *table,
                                 int64_t *count, real *terms) {
  vec pairs[4];
  for (int k = 0; k < 4; k++)
    pairs[k] =
        kept_term_but_maxima(x, 2 * k * LINE, reference, table, count, terms) +
        kept_term_but_maxima(x, (2 * k + 1) * LINE, reference, table, count, terms);
  return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3]);
}

INLINED vec group_spread(const real *logits, const real *class_weights, int64_t j, vec m) {
  vec pairs[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++)
    pairs[k] = spread_line(logits, class_weights, j + 2 * k * LINE, LANES, m) +
               spread_line(logits, class_weights, j + (2 * k + 1) * LINE, LANES, m);
  return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3]);
}

static inline real *kept_at(real *terms, int64_t j) { return terms ? terms + j : NULL; }

/* count: how many logits equal m; rest: the sum of exp(x_j - m) over the others; rest_lost: what
 * rounding has lost of it since the groups were added up. The sums of groups go on in float64.
 *
 * Meanwhile `next`, the block that comes after this one, gets its maximum: a pass of its own for it
 * would wait for memory first, and the sum for it (65536 x 1000 float32, one thread: 16.3 ms
 * against 14.2). */
INLINED BlockSum block_sum_of(const Block *block, Reference reference, Block *next,
                              const int spreads, const real *class_weights, LineTotal *spread,
                              real *terms) {
  const Table table = make_table();
  const vec m = broadcast((real)(reference.maximum + reference.shift));
  const int64_t n = block->n, n_groups = n / GROUP, n_next_groups = next->n / GROUP;
  const vec largest = broadcast(reference.maximum);
  line_sum sums, spread_sums;
  memset(&sums, 0, sizeof sums);
  memset(&spread_sums, 0, sizeof spread_sums);
  vec next_maxima = broadcast((real)-INFINITY);
  int64_t count = 0;
  for (int64_t k = 0; k < n_groups; k++) {
    const real *x = block->logits + k * GROUP;
    const char *ahead = block->ahead + 8 * k * block->line_bytes;
    for (int c = 0; c < 8; c++) prefetch(ahead + c * block->line_bytes);
    if (block->written)
      for (int c = 0; c < 8; c++)
        prefetch_to_write(block->written + (8 * k + c) * block->line_bytes);
    if (k < n_next_groups) next_maxima = maximum(group_maximum(next, k), next_maxima);
    if (__builtin_expect(any_equal(block->group_maxima[k], m), 0))
      for (int c = 0; c < COLUMNS; c++)
        line_sum_add(&sums, c, group_sum_but_maxima(x + c * LANES, &reference, &table, &count,
                                                    kept_at(terms, k * GROUP + c * LANES)));
    else
      for (int c = 0; c < COLUMNS; c++)
        line_sum_add(&sums, c, group_sum(x + c * LANES, &reference, &table,
                                         kept_at(terms, k * GROUP + c * LANES)));
    if (spreads)
      for (int c = 0; c < COLUMNS; c++)
        line_sum_add(&spread_sums, c,
                     group_spread(block->logits, class_weights, k * GROUP + c * LANES, largest));
  }
  int64_t j = n_groups * GROUP;
  /* What is left goes into float64 line by line: few terms have nothing to average roundings with. */
  for (int64_t k = 8 * n_groups; k * LINE < n; k++) prefetch(block->ahead + k * block->line_bytes);
  for (; j < n; j += LINE)
    for (int c = 0; c < COLUMNS && j + c * LANES < n; c++) {
      const int64_t left = n - j - c * LANES;
      const real *place = block->logits + j + c * LANES;
      const vec x = left >= LANES ? load(place) : load_partial(place, left, (real)-INFINITY);
      const vec term = block_term(x, &reference, &table);
      if (terms) store(terms + j + c * LANES, term);
      line_sum_add(&sums, c, clear_equal(term, x, largest, &count));
      if (spreads)
        line_sum_add(&spread_sums, c,
                     spread_line(block->logits, class_weights, j + c * LANES, left, largest));
    }
  if (spreads) *spread = line_sum_total(&spread_sums);
  finish_maximum(next, n_groups < n_next_groups ? n_groups : n_next_groups, next_maxima);
  const LineTotal sum = line_sum_total(&sums);
  const double rest = sum.total * reference.factor;
  const double rest_lost =
      fma(sum.total, reference.factor, -rest) + sum.lost * reference.factor;
  return (BlockSum){(double)count, rest, rest_lost};
}

/* The terms are left behind at `terms`, unless that is NULL: a copy for each, as for what spreads. */
static inline BlockSum block_sum(const Block *block, Reference reference, Block *next,
                                 real *terms) {
  if (terms) return block_sum_of(block, reference, next, 0, NULL, NULL, terms);
  return block_sum_of(block, reference, next, 0, NULL, NULL, NULL);
}

/* block_sum of a transformed block, whose maximum is 0. */
static inline BlockSum block_sum_with_tails(const Block *block, const real *tails,
                                            Reference reference, Block *next, real *terms) {
  const Table table = make_table();
  line_sum sums;
  memset(&sums, 0, sizeof sums);
  int64_t count = 0;
  for (int64_t j = 0; j < block->n; j += LINE)
    for (int c = 0; c < COLUMNS && j + c * LANES < block->n; c++) {
      const int64_t first = j + c * LANES, left = block->n - first;
      const real *place = block->logits + first;
      const vec x = left >= LANES ? load(place) : load_partial(place, left, (real)-INFINITY);
      const vec tail = left >= LANES ? load(tails + first) : load_partial(tails + first, left, 0);
      const vec term = put_together(with_tail(reduce(x, &reference, &table), tail));
      if (terms) store(terms + first, term);
      line_sum_add(&sums, c, clear_equal(term, x, broadcast(reference.maximum), &count));
    }
  block_maximum(next);
  const LineTotal sum = line_sum_total(&sums);
  const double rest = sum.total * reference.factor;
  const double rest_lost =
      fma(sum.total, reference.factor, -rest) + sum.lost * reference.factor;
  return (BlockSum){(double)count, rest, rest_lost};
}

typedef struct {
  double dot;
  double dot_lost;
  double mass;
  double mass_lost;
} BlockTarget;

/* A sum of float64 numbers in lanes, and what it has lost. */
typedef struct {
  wide sum;
  wide lost;
} WideSum;

/* What is lost is exact (Knuth); an infinite sum has lost nothing. */
static inline void add_to_wide(WideSum *total, wide value, wide lost) {
  const wide sum = total->sum + value, part = sum - total->sum;
  const wide error = (total->sum - (sum - part)) + (value - part);
  total->lost += lost + choose_wide(sum - sum == 0, error, (wide){0});
  total->sum = sum;
}

/* Eight lines of terms t_j * (m - x_j) and of weights t_j added as binary trees, in a column of
 * WIDE_LANES; a class without mass costs nothing whatever its logit. */
static inline void target_group(const real *logits, const real *targets,
                                const real *class_weights, wide maximum, WideSum *dot,
                                WideSum *mass) {
  wide terms[8], weights[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) {
    weights[k] = load_wide(targets + k * LINE);
    if (class_weights) weights[k] *= load_wide(class_weights + k * LINE);
    const wide term = weights[k] * (maximum - load_wide(logits + k * LINE));
    terms[k] = (wide)((wide_bits)(weights[k] != 0) & (wide_bits)term);
  }
#pragma GCC unroll 3
  for (int half = 4; half > 0; half /= 2)
#pragma GCC unroll 4
    for (int k = 0; k < half; k++) {
      terms[k] += terms[k + half];
      weights[k] += weights[k + half];
    }
  add_to_wide(dot, terms[0], (wide){0});
  add_to_wide(mass, weights[0], (wide){0});
}

/* The lanes of all columns folded in half until one is left. */
static inline WideSum fold_wide(const WideSum *columns) {
  WideSum folded[WIDE_COLUMNS];
  for (int c = 0; c < WIDE_COLUMNS; c++) folded[c] = columns[c];
#pragma GCC unroll 8
  for (int half = WIDE_COLUMNS / 2; half > 0; half /= 2)
    for (int c = 0; c < half; c++)
      add_to_wide(&folded[c], folded[c + half].sum, folded[c + half].lost);
#pragma GCC unroll 4
  for (int half = WIDE_LANES / 2; half > 0; half /= 2) {
    const wide_bits exchanged = {EXCHANGED_DOUBLES(half)};
    add_to_wide(&folded[0], __builtin_shuffle(folded[0].sum, exchanged),
                __builtin_shuffle(folded[0].lost, exchanged));
  }
  return folded[0];
}

/* dot: sum of t_j * (m - x_j), where a class without mass costs nothing whatever its logit;
 * mass: sum of t_j. t_j is a target, times its class's weight if there are weights. In float64
 * throughout: both are sums of products of the inputs. */
static inline BlockTarget block_target(const real *logits, const real *targets,
                                       const real *class_weights, int64_t n, double maximum) {
  real last_logits[8 * 64 / sizeof(real)], last_targets[8 * 64 / sizeof(real)];
  real last_weights[8 * 64 / sizeof(real)];
  WideSum dots[WIDE_COLUMNS], masses[WIDE_COLUMNS];
  memset(dots, 0, sizeof dots);
  memset(masses, 0, sizeof masses);
  for (int64_t j = 0; j < n; j += GROUP) {
    const real *x = logits + j, *t = targets + j, *w = class_weights ? class_weights + j : NULL;
    for (int k = 0; k < 8; k++) prefetch((const char *)(t + k * LINE + PREFETCH_DISTANCE));
    if (n - j < GROUP) {
      /* what is missing adds 0 */
      memset(last_logits, 0, sizeof last_logits);
      memset(last_targets, 0, sizeof last_targets);
      memcpy(last_logits, x, (size_t)(n - j) * sizeof(real));
      memcpy(last_targets, t, (size_t)(n - j) * sizeof(real));
      x = last_logits;
      t = last_targets;
      if (w) {
        memset(last_weights, 0, sizeof last_weights);
        memcpy(last_weights, w, (size_t)(n - j) * sizeof(real));
        w = last_weights;
      }
    }
    for (int c = 0; c < WIDE_COLUMNS; c++)
      target_group(x + c * WIDE_LANES, t + c * WIDE_LANES, w ? w + c * WIDE_LANES : NULL,
                   (wide){0} + maximum, &dots[c], &masses[c]);
  }
  const WideSum dot = fold_wide(dots), mass = fold_wide(masses);
  return (BlockTarget){dot.sum[0], dot.lost[0], mass.sum[0], mass.lost[0]};
}

/* The spread of a block where some classes are masked, or m - x_j is too large for a real: in float64,
 * with a look at each. */
static inline BlockSpread spread_but_masked(const real *logits, const real *class_weights,
                                            int64_t n, double maximum) {
  WideSum dots[WIDE_COLUMNS], masses[WIDE_COLUMNS];
  real last_logits[64 / sizeof(real)], last_weights[64 / sizeof(real)];
  double count = 0;
  memset(dots, 0, sizeof dots);
  memset(masses, 0, sizeof masses);
  for (int64_t k = 0; k < (int64_t)(64 / sizeof(real)); k++) last_weights[k] = 1;
  for (int64_t j = 0; j < n; j += LINE) {
    const real *x = logits + j, *w = class_weights ? class_weights + j : last_weights;
    if (n - j < LINE) {
      for (int64_t k = 0; k < LINE; k++) {
        last_logits[k] = k < n - j ? x[k] : (real)-INFINITY;
        last_weights[k] = k < n - j && class_weights ? w[k] : 1;
      }
      x = last_logits;
      w = last_weights;
    }
    for (int c = 0; c < WIDE_COLUMNS; c++) {
      const wide logit = load_wide(x + c * WIDE_LANES);
      const wide_bits there = logit != (wide){0} - INFINITY;
      const wide weight = (wide)(there & (wide_bits)load_wide(w + c * WIDE_LANES));
      const wide term = (wide)(there & (wide_bits)(weight * (maximum - logit)));
      add_to_wide(&dots[c], term, (wide){0});
      add_to_wide(&masses[c], weight, (wide){0});
      for (int k = 0; k < WIDE_LANES; k++) count -= (double)there[k];
    }
  }
  const WideSum dot = fold_wide(dots), mass = fold_wide(masses);
  return (BlockSpread){dot.sum[0], dot.lost[0], mass.sum[0], mass.lost[0], count};
}

/* A block's spread, given the sum of w_j * (m - x_j) and that of the weights of all its classes. */
static inline BlockSpread spread_of(LineTotal dot, const real *logits, const real *class_weights,
                                    int64_t n, double maximum, double mass) {
  if (dot.total - dot.total != 0)
    return spread_but_masked(logits, class_weights, n, maximum);
  return (BlockSpread){dot.total, dot.lost, mass, 0, (double)n};
}

/* block_sum and the spread in one pass: the multiply-adds of the exponentials leave time for it. */
static inline BlockSum block_sum_and_spread(const Block *block, Reference reference, Block *next,
                                            const real *class_weights, double mass,
                                            BlockSpread *spread, real *terms) {
  LineTotal dot;
  const BlockSum sums =
      terms ? block_sum_of(block, reference, next, 1, class_weights, &dot, terms)
            : block_sum_of(block, reference, next, 1, class_weights, &dot, NULL);
  /* while there is no finite maximum, what is not masked is NaN or infinite anyway */
  const double m = (double)reference.maximum == (double)reference.maximum ? reference.maximum : 0;
  *spread = spread_of(dot, block->logits, class_weights, block->n, m, mass);
  return sums;
}

/* The spread alone. */
static inline BlockSpread block_spread(const real *logits, const real *class_weights, int64_t n,
                                       double maximum, double mass) {
  const vec m = broadcast((real)maximum);
  line_sum sums;
  memset(&sums, 0, sizeof sums);
  int64_t j = 0;
  for (; j + GROUP <= n; j += GROUP)
    for (int c = 0; c < COLUMNS; c++)
      line_sum_add(&sums, c, group_spread(logits, class_weights, j + c * LANES, m));
  for (; j < n; j += LINE)
    for (int c = 0; c < COLUMNS && j + c * LANES < n; c++)
      line_sum_add(&sums, c,
                   spread_line(logits, class_weights, j + c * LANES, n - j - c * LANES, m));
  return spread_of(line_sum_total(&sums), logits, class_weights, n, maximum, mass);
}

/* Whether all n values are from `lowest` to `highest`; no NaN is. */
static inline int block_is_within(const real *values, int64_t n, double lowest, double highest) {
  const vec low = broadcast((real)lowest), high = broadcast((real)highest);
  vec_bits outside = {0};
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) {
    const vec value = load(values + j);
    outside |= ~((value >= low) & (value <= high));
  }
  if (j < n) {
    const vec value = load_partial(values + j, n - j, (real)lowest);
    outside |= ~((value >= low) & (value <= high));
  }
  real_bits any = 0;
  for (int k = 0; k < (int)LANES; k++) any |= outside[k];
  return any == 0;
}

/* The value of output_j to output_(j + n), n being LANES or fewer. */
typedef vec (*Values)(const void *closure, int64_t j, int64_t n);

/* Writes n values; past the caches where the output `streams`, from its first whole vector on. */
INLINED void write_values(real *output, int64_t n, int streams, Values values,
                          const void *closure) {
  int64_t j = 0;
  if (streams) {
    const int64_t to_vector = reals_to_vector(output);
    j = to_vector < n ? to_vector : n;
    if (j > 0) store_partial(output, values(closure, 0, j), j);
    for (; j + LANES <= n; j += LANES) store_past_caches(output + j, values(closure, j, LANES));
  }
  for (; j + LANES <= n; j += LANES) store(output + j, values(closure, j, LANES));
  if (j < n) store_partial(output + j, values(closure, j, n - j), n - j);
}

INLINED vec load_values(const real *source, int64_t j, int64_t n) {
  return n == LANES ? load(source + j) : load_partial(source + j, n, 0);
}

typedef struct {
  const real *logits;
  const real *terms; /* where they have been kept, or NULL */
  Reference reference;
  Table table;
  vec scale;
  vec spread;
  int64_t label;
  real label_value;
} SoftmaxValues;

INLINED vec softmax_or_smoothed(const void *closure, int64_t j, int64_t n, int kept, int smoothed) {
  const SoftmaxValues *with = (const SoftmaxValues *)closure;
  vec value;
  if (kept)
    value = load(with->terms + j) * with->scale;
  else
    value = scaled_term(reduce(load_values(with->logits, j, n), &with->reference, &with->table),
                        with->scale);
  if (smoothed) value -= with->spread;
  if ((uint64_t)(with->label - j) < (uint64_t)n)
    value = replace_lane(value, with->label - j, with->label_value);
  return value;
}

INLINED vec softmax_values(const void *closure, int64_t j, int64_t n) {
  return softmax_or_smoothed(closure, j, n, 0, 0);
}

INLINED vec smoothed_values(const void *closure, int64_t j, int64_t n) {
  return softmax_or_smoothed(closure, j, n, 0, 1);
}

INLINED vec kept_softmax_values(const void *closure, int64_t j, int64_t n) {
  return softmax_or_smoothed(closure, j, n, 1, 0);
}

INLINED vec kept_smoothed_values(const void *closure, int64_t j, int64_t n) {
  return softmax_or_smoothed(closure, j, n, 1, 1);
}

/* output_j = scale * exp(x_j - m) / factor - spread, but label_value at the label; a negative one is
 * none. (Put there afterwards, it would wait for a line that has just been sent past the caches.) */
static inline void block_softmax(const real *logits, const real *terms, int64_t n,
                                 Reference reference, double scale, double spread, int64_t label,
                                 double label_value, real *output, int streams) {
  const SoftmaxValues with = {.logits = logits, .terms = terms, .reference = reference,
                              .table = make_table(), .scale = broadcast((real)scale),
                              .spread = broadcast((real)spread), .label = label,
                              .label_value = (real)label_value};
  if (terms && spread != 0)
    write_values(output, n, streams, kept_smoothed_values, &with);
  else if (terms)
    write_values(output, n, streams, kept_softmax_values, &with);
  else if (spread != 0)
    write_values(output, n, streams, smoothed_values, &with);
  else
    write_values(output, n, streams, softmax_values, &with);
}

/* What a block's output is made of besides its softmax. A measure is
 *     t_j = class_weights_j * (probs_scale * probs_j + spread)
 * where weights that are NULL are 1, probs that are NULL are 0, and nothing is spread over a class
 * that is masked. */
typedef struct {
  const real *probs;
  const real *class_weights;
  double probs_scale;
  double spread;
  const Transformed *transformed; /* what a transformed block has besides, or NULL */
  double total;        /* what the softmax is multiplied by */
  double total_lost;
  double others;       /* 1 - exp(m - m)/sum_exp */
  double output_scale; /* of everything */
  int64_t label;       /* where label_value goes; negative for none */
  double label_value;
  int64_t masked;      /* whether a class of the row may be masked */
  const real *terms;   /* exp(x_j - m) / factor where they have been kept, or NULL */
} Measure;

typedef struct {
  const real *logits;
  Measure measure;
  Reference reference;
  Table table;
  vec scale;
  vec probs_scale; /* these two times output_scale */
  vec spread;
} MeasureValues;

static inline MeasureValues measure_values_of(const real *logits, const Measure *measure,
                                              Reference reference, double scale) {
  return (MeasureValues){logits, *measure, reference, make_table(), broadcast((real)scale),
                         broadcast((real)(measure->probs_scale * measure->output_scale)),
                         broadcast((real)(measure->spread * measure->output_scale))};
}

INLINED vec measure_term(const MeasureValues *with, vec x, int64_t j, int64_t n) {
  if (with->measure.terms) return load(with->measure.terms + j) * with->scale;
  Reduced reduced = reduce(x, &with->reference, &with->table);
  const Transformed *transformed = with->measure.transformed;
  if (transformed) reduced = with_tail(reduced, load_values(transformed->tails, j, n));
  return scaled_term(reduced, with->scale);
}

/* One t_j in float64. */
INLINED double measure_at(const Measure *measure, int64_t j, real x) {
  double t = x == (real)-INFINITY ? 0.0 : measure->spread;
  if (measure->probs) t += measure->probs_scale * (double)measure->probs[j];
  return measure->class_weights ? t * (double)measure->class_weights[j] : t;
}

INLINED vec softmax_minus_target_values(const void *closure, int64_t j, int64_t n) {
  const MeasureValues *with = (const MeasureValues *)closure;
  const Measure *measure = &with->measure;
  const vec x = load_values(with->logits, j, n);
  vec t = with->spread;
  if (measure->masked) t = keep(x != broadcast((real)-INFINITY), t);
  if (measure->probs)
    t = multiply_add(load_values(measure->probs, j, n), with->probs_scale, t);
  vec value = measure_term(with, x, j, n);
  if (measure->class_weights)
    value = multiply_add(-t, load_values(measure->class_weights, j, n), value);
  else
    value -= t;
  const real m = with->reference.maximum;
  if (measure->others < 0.5 && any_equal(x, broadcast(m)))
    for (int64_t k = 0; k < n; k++)
      if (x[k] == m)
        value[k] = (real)(measure->output_scale *
                          (((measure->total - measure_at(measure, j + k, m)) +
                            measure->total_lost) -
                           measure->total * measure->others));
  if ((uint64_t)(measure->label - j) < (uint64_t)n)
    value = replace_lane(value, measure->label - j, (real)measure->label_value);
  if (measure->transformed && measure->transformed->caps) {
    const vec low = value * load_values(measure->transformed->slope_tails, j, n);
    value = multiply_add(value, load_values(measure->transformed->slopes, j, n), low);
  }
  return value;
}

/* output_j = scale * exp(x_j - m) / factor - output_scale * t_j, except at a logit x_j = m that has
 * more than half of the softmax: there B*p_j - t_j = (B - t_j) - B*(sum_exp - 1)/sum_exp, which
 * keeps its digits as p_j comes close to 1 (B is `total`, `others` is 1 - p_j); and at the label. */
static inline void block_softmax_minus_target(const real *logits, int64_t n,
                                              const Measure *measure, Reference reference,
                                              double scale, real *output, int streams) {
  const MeasureValues with = measure_values_of(logits, measure, reference, scale);
  write_values(output, n, streams, softmax_minus_target_values, &with);
}

INLINED vec hessian_values(const void *closure, int64_t j, int64_t n) {
  const MeasureValues *with = (const MeasureValues *)closure;
  const vec p = measure_term(with, load_values(with->logits, j, n), j, n);
  const vec_bits most = p > broadcast((real)0.5);
  const vec rest = choose(most, broadcast((real)with->measure.others), broadcast(1) - p);
  return p * rest * broadcast((real)with->measure.output_scale);
}

/* output_j = output_scale * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor */
static inline void block_hessian(const real *logits, int64_t n, const Measure *measure,
                                 Reference reference, double scale, real *output, int streams) {
  const MeasureValues with = measure_values_of(logits, measure, reference, scale);
  write_values(output, n, streams, hessian_values, &with);
}

typedef struct {
  MeasureValues measured;
  const real *vectors;
  vec mean;
} ProductValues;

INLINED vec hessian_product_values(const void *closure, int64_t j, int64_t n) {
  const ProductValues *with = (const ProductValues *)closure;
  const vec p = measure_term(&with->measured, load_values(with->measured.logits, j, n), j, n);
  return keep(p != broadcast(0), p * (load_values(with->vectors, j, n) - with->mean));
}

/* output_j = scale * exp(x_j - m) / factor * (v_j - mean) */
static inline void block_hessian_product(const real *logits, const real *vectors, int64_t n,
                                         const Measure *measure, Reference reference, double scale,
                                         double mean, real *output, int streams) {
  const ProductValues with = {measure_values_of(logits, measure, reference, scale), vectors,
                              broadcast((real)mean)};
  write_values(output, n, streams, hessian_product_values, &with);
}

/* The sum of exp(x_j - m) * v_j, with v_j = m - x_j where there are no vectors. A class
 * without probability adds nothing. */
static inline double block_expectation(const real *logits, const real *tails, const real *vectors,
                                       int64_t n, Reference reference) {
  const Table table = make_table();
  const vec m = broadcast(reference.maximum);
  line_sum sums;
  memset(&sums, 0, sizeof sums);
  for (int64_t j = 0; j < n; j += LINE)
    for (int c = 0; c < COLUMNS && j + c * LANES < n; c++) {
      const int64_t first = j + c * LANES, count = n - first < LANES ? n - first : LANES;
      const vec x = count == LANES ? load(logits + first)
                                   : load_partial(logits + first, count, (real)-INFINITY);
      Reduced reduced = reduce(x, &reference, &table);
      if (tails) reduced = with_tail(reduced, load_values(tails, first, count));
      const vec v = vectors ? load_values(vectors, first, count) : m - x;
      /* 2^SPARE_EXPONENT too large, which keeps small terms' digits and is too much for vectors */
      const vec term = vectors ? put_together(reduced) * broadcast((real)reference.factor)
                               : put_together(reduced);
      line_sum_add(&sums, c, keep(term != broadcast(0), term * v));
    }
  const LineTotal sum = line_sum_total(&sums);
  const double total = sum.total - sum.total == 0 ? sum.total + sum.lost : sum.total;
  return vectors ? total : total * reference.factor;
}

typedef struct {
  const real *logits;
  Measure measure;
  vec maximum;
  vec log_sum_exp;
  vec scale;
} LabelGradientValues;

INLINED vec label_gradient_values(const void *closure, int64_t j, int64_t n) {
  const LabelGradientValues *with = (const LabelGradientValues *)closure;
  const vec x = load_values(with->logits, j, n);
  vec value = ((with->maximum - x) + with->log_sum_exp) * with->scale;
  if (with->measure.class_weights) value *= load_values(with->measure.class_weights, j, n);
  const vec_bits masked = x == broadcast((real)-INFINITY), zero = {0};
  vec_bits none = (load_values(with->measure.probs, j, n) == broadcast(0)) |
                  (with->scale == broadcast(0));
  if (with->measure.class_weights)
    none |= load_values(with->measure.class_weights, j, n) == broadcast(0);
  return keep((masked & none) == zero, value);
}

/* output_j = output_scale * probs_scale * class_weights_j * ((m - x_j) + log(sum_exp)), the gradient
 * with respect to a probability; 0 at a masked class without mass. */
static inline void block_label_gradient(const real *logits, int64_t n, const Measure *measure,
                                        double maximum, double log_sum_exp, real *output,
                                        int streams) {
  const LabelGradientValues with = {
      logits, *measure, broadcast((real)maximum), broadcast((real)log_sum_exp),
      broadcast((real)(measure->output_scale * measure->probs_scale))};
  write_values(output, n, streams, label_gradient_values, &with);
}

typedef struct {
  const real *logits;
  vec maximum;
  vec log_sum_exp;
} LogSoftmaxValues;

INLINED vec log_softmax_values(const void *closure, int64_t j, int64_t n) {
  const LogSoftmaxValues *with = (const LogSoftmaxValues *)closure;
  return (load_values(with->logits, j, n) - with->maximum) - with->log_sum_exp;
}

/* output_j = (x_j - m) - log(sum_exp) */
static inline void block_log_softmax(const real *logits, int64_t n, double maximum,
                                     double log_sum_exp, real *output, int streams) {
  const LogSoftmaxValues with = {logits, broadcast((real)maximum), broadcast((real)log_sum_exp)};
  write_values(output, n, streams, log_softmax_values, &with);
}

/* The first of n values that equals `value`, or -1. */
static inline int64_t first_equal(const real *values, int64_t n, double value) {
  const vec wanted = broadcast((real)value);
  for (int64_t j = 0; j < n; j += LANES) {
    const int64_t count = n - j < LANES ? n - j : LANES;
    const vec x = count == LANES ? load(values + j) : load_partial(values + j, count, (real)NAN);
    if (any_equal(x, wanted))
      for (int64_t k = 0; k < count; k++)
        if (values[j + k] == (real)value) return j + k;
  }
  return -1;
}

/* ---- divergence of two rows ------------------------------------------------------------------- */

/* A row of logits divided by a temperature: its maximum, before that; log(sum_exp) and 1/sum_exp. */
typedef struct {
  double maximum;
  double log_sum;
  double scale;
  double others; /* 1 - exp(m - m)/sum_exp */
} Softness;

/* exp(d) / factor */
INLINED vec pair_term(Pair d, const Reference *reference, const Table *table) {
  return put_together(with_tail(reduce(d.value, reference, table), d.low));
}

static inline Softness row_softness(const char *row, int64_t element, int64_t n_classes,
                                    double temperature, real *buffer) {
  const Reference reference = reference_at(0);
  const Table table = make_table();
  vec largest = broadcast((real)-INFINITY);
  for (int64_t j = 0; j < n_classes; j += BLOCK) {
    const int64_t n = n_classes - j < BLOCK ? n_classes - j : BLOCK;
    const real *x = load_block(row + j * element_size(element), element, n, buffer);
    int64_t k = 0;
    for (; k + LANES <= n; k += LANES) largest = maximum(load(x + k), largest);
    if (k < n) largest = maximum(load_partial(x + k, n - k, (real)-INFINITY), largest);
  }
  const double m = (double)fold_maximum(largest);
  const TransformReference top = transform_relative_to(m, temperature, 0);
  line_sum sums;
  memset(&sums, 0, sizeof sums);
  int64_t count = 0;
  for (int64_t j = 0; j < n_classes; j += BLOCK) {
    const int64_t n = n_classes - j < BLOCK ? n_classes - j : BLOCK;
    const real *row_block = load_block(row + j * element_size(element), element, n, buffer);
    for (int64_t k = 0; k < n; k += LINE)
      for (int c = 0; c < COLUMNS && k + c * LANES < n; c++) {
        const int64_t first = k + c * LANES, left = n - first;
        const vec x = left >= LANES ? load(row_block + first)
                                    : load_partial(row_block + first, left, (real)-INFINITY);
        const Pair d = transformed_difference(x, &top, NULL);
        const vec term = pair_term(d, &reference, &table);
        line_sum_add(&sums, c, clear_equal(term, x, top.maximum, &count));
      }
  }
  const LineTotal sum = line_sum_total(&sums);
  const double above = (sum.total + sum.lost) * reference.factor + ((double)count - 1);
  /* a row without a finite maximum has no softmax */
  const double y = m - m == 0 && above >= 0 ? above : (double)NAN;
  return (Softness){m, log1p(y), 1 / (1 + y), y / (1 + y)};
}

/* The sum of q_j * (exp(-d_j) - 1 + d_j), with p and q the softmax of logits and partners and
 * d_j = log q_j - log p_j; where d_j is small from its series. Where there is an output,
 * output_j = output_scale * (p_j - q_j). */
static inline double block_divergence(const real *logits, const real *partners, int64_t n,
                                      Softness own, Softness partner, double temperature,
                                      double output_scale, real *output) {
  const Reference reference = reference_at(0);
  const Table table = make_table();
  const TransformReference top = transform_relative_to(own.maximum, temperature, 0);
  const TransformReference partner_top = transform_relative_to(partner.maximum, temperature, 0);
  const vec none = broadcast(0), scale = broadcast((real)output_scale);
  const vec own_scale = broadcast((real)(own.scale * reference.factor));
  const vec partner_scale = broadcast((real)(partner.scale * reference.factor));
  line_sum sums;
  memset(&sums, 0, sizeof sums);
  for (int64_t j = 0; j < n; j += LINE)
    for (int c = 0; c < COLUMNS && j + c * LANES < n; c++) {
      const int64_t first = j + c * LANES, count = n - first < LANES ? n - first : LANES;
      const vec x = count == LANES ? load(logits + first)
                                   : load_partial(logits + first, count, (real)-INFINITY);
      const vec u = count == LANES ? load(partners + first)
                                   : load_partial(partners + first, count, (real)-INFINITY);
      const Pair below = transformed_difference(x, &top, NULL);
      const Pair partner_below = transformed_difference(u, &partner_top, NULL);
      const vec p = pair_term(below, &reference, &table) * own_scale;
      const vec q = pair_term(partner_below, &reference, &table) * partner_scale;
      const Pair apart = exact_sum(partner_below.value, -below.value);
      const vec d = (apart.value + broadcast((real)(own.log_sum - partner.log_sum))) +
                    (apart.low + (partner_below.low - below.low));
      vec series = broadcast((real)(1.0 / FACTORIALS[LAST_POWER]));
#pragma GCC unroll 16
      for (int k = LAST_POWER - 1; k > 1; k--)
        series = multiply_add(series, -d, broadcast((real)(1.0 / FACTORIALS[k])));
      const vec curve = d * d * series; /* exp(-d) - 1 + d */
      const vec_bits near = magnitude(d) < broadcast((real)0.5);
      const vec far_term = (p - q) + keep(q != none, q * d);
      line_sum_add(&sums, c, choose(near, q * curve, far_term));
      if (output) {
        /* where both have more than half, 1 - q - (1 - p) keeps the digits of confident rows */
        const vec half = broadcast((real)0.5);
        vec value = choose(near, q * (curve - d), p - q);
        value = choose((p > half) & (q > half), broadcast((real)(partner.others - own.others)),
                       value) * scale;
        if (count == LANES)
          store(output + first, value);
        else
          store_partial(output + first, value, count);
      }
    }
  const LineTotal sum = line_sum_total(&sums);
  /* an infinite sum has lost nothing */
  return sum.total - sum.total == 0 ? sum.total + sum.lost : sum.total;
}

#endif
