/* Roofs: the least that a kernel must do to an array, done as fast as this machine can.
 *
 * A kernel takes the exponential of every logit, so no kernel is faster than the exponentials
 * alone, by the same polynomial in the same instructions. Here they are, of an array where it lies:
 * without maximum, label or row. The array is one row, cut into segments where 64 bytes begin.
 *
 * What is taken is 2^-HALVINGS * e^x. The power of two costs nothing. It keeps logits up to 104 in
 * range, and those of an array that is overwritten again and again.
 *
 * Logits are finite or -inf: kernels look at what else there is, and the least is not to.
 */
#ifndef FASTXENT_ROOFS_H
#define FASTXENT_ROOFS_H

#include "primitives.h"

#define HALVINGS 23

/* Two vectors of logits at once: of 16 bits, they are what one register holds. */
#define PAIR (2 * LANES)
/* Pairs that are worked on side by side. With more, the registers of x86-64-v2 do not suffice for
 * their sums: float64 took 1.05 times as long with 4; elsewhere 1 to 8 were within 0.04. */
#define UNROLLED 2
/* Places that are written past the caches in turn. */
#define STREAMS 4

/* Bytes ahead that memory is asked for what is read and for what is written. Of 1, 2, 4 ... 32 KiB
 * none from 4 on was better than the others; 1 KiB took up to 1.5 times as long. */
#define ROOF_PREFETCH_DISTANCE 4096

typedef struct {
  vec first;
  vec second;
} Two;

typedef struct {
  Reference reference;
  Table table;
} Exponential;

static inline Exponential make_exponential(void) {
  return (Exponential){shift_exponent(reference_at(0), SPARE_EXPONENT + HALVINGS), make_table()};
}

INLINED vec exponential(const Exponential *with, vec x) {
  return put_together(reduce(x, &with->reference, &with->table));
}

/* ---- elements of 16 bits: each of `words` has one in its low and one in its high half -------- */

#if FASTXENT_REAL_BITS == 32
typedef uint32_t words __attribute__((vector_size(VECTOR_BYTES)));

/* as widen_float16, but for infinity, which becomes 65536 */
INLINED vec widen_low_float16(words bits) {
  return (vec)((words)((vec)((bits & 0x7fff) << 13) * broadcast(0x1p112f)) | (bits & 0x8000) << 16);
}

/* as narrow_float16, of a value that is not below 0 */
INLINED words narrow_to_float16(vec value) {
  const words bits = (words)value;
  const words subnormal = (words)(value + broadcast(0.5f)) - 0x3f000000;
  const words normal = (bits + (0xfff - 0x38000000u) + (bits >> 13 & 1)) >> 13;
  const words small = (words)(value < broadcast(0x1p-14f));
  const words infinite = (words)(value >= broadcast(0x1.ffep+15f));
  const words finite = (small & subnormal) | (~small & normal);
  return (infinite & 0x7c00) | (~infinite & finite);
}

/* as narrow_bfloat16, in the high half; what is below it is left there */
INLINED words round_to_bfloat16(vec value) {
  const words bits = (words)value;
  return bits + 0x7fff + (bits >> 16 & 1);
}
#endif

/* ---- PAIR elements of a type that is known when this is compiled ----------------------------- */

INLINED Two load_two(const char *source, const int64_t element) {
#if FASTXENT_REAL_BITS == 32
#if defined(__AVX512F__)
  if (element == FLOAT16)
    return (Two){(vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)source)),
                 (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)source + 1))};
#elif defined(__F16C__)
  if (element == FLOAT16)
    return (Two){(vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)source)),
                 (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)source + 1))};
#endif
  if (element != OWN_ELEMENT) {
    const words bits = (words)load((const real *)source);
    if (element == FLOAT16) return (Two){widen_low_float16(bits), widen_low_float16(bits >> 16)};
    return (Two){(vec)(bits << 16), (vec)(bits & 0xffff0000)};
  }
#endif
  return (Two){load((const real *)source), load((const real *)source + LANES)};
}

/* The address is that of a whole vector where it `streams`. */
INLINED void store_vector(char *destination, vec value, const int streams) {
  if (streams)
    store_past_caches((real *)destination, value);
  else
    store((real *)destination, value);
}

INLINED void store_two(char *destination, Two values, const int64_t element,
                                    const int streams) {
#if FASTXENT_REAL_BITS == 32
#if defined(__AVX512F__)
  if (element == FLOAT16) {
    const __m256i low = _mm512_cvtps_ph((__m512)values.first, _MM_FROUND_TO_NEAREST_INT);
    const __m256i high = _mm512_cvtps_ph((__m512)values.second, _MM_FROUND_TO_NEAREST_INT);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    store_vector(destination, (vec)both, streams);
    return;
  }
#elif defined(__F16C__)
  if (element == FLOAT16) {
    const __m128i low = _mm256_cvtps_ph((__m256)values.first, _MM_FROUND_TO_NEAREST_INT);
    const __m128i high = _mm256_cvtps_ph((__m256)values.second, _MM_FROUND_TO_NEAREST_INT);
    store_vector(destination, (vec)_mm256_set_m128i(high, low), streams);
    return;
  }
#endif
  if (element != OWN_ELEMENT) {
    const words both =
        element == FLOAT16
            ? narrow_to_float16(values.first) | narrow_to_float16(values.second) << 16
            : round_to_bfloat16(values.first) >> 16 |
                  (round_to_bfloat16(values.second) & 0xffff0000);
    store_vector(destination, (vec)both, streams);
    return;
  }
#endif
  store_vector(destination, values.first, streams);
  store_vector(destination + VECTOR_BYTES, values.second, streams);
}

/* ---- n elements ------------------------------------------------------------------------------ */

/* LANES or fewer; what is missing has the exponential 0. */
static inline vec load_few(const char *source, int64_t element, int64_t n) {
  real buffer[BLOCK];
  return load_partial(load_block(source, element, n, buffer), n, (real)-INFINITY);
}

static inline void store_few(char *destination, vec value, int64_t element, int64_t n) {
  real buffer[BLOCK];
  real *block = output_block(destination, element, buffer);
  store_partial(block, value, n);
  store_block(block, n, destination, element);
}

static inline void write_few(const Exponential *with, const char *source, int64_t element,
                             int64_t n, char *output) {
  const int64_t size = element_size(element);
  for (int64_t j = 0; j < n; j += LANES) {
    const int64_t count = n - j < LANES ? n - j : LANES;
    const vec x = load_few(source + j * size, element, count);
    store_few(output + j * size, exponential(with, x), element, count);
  }
}

INLINED double sum_of(const char *source, const int64_t element, int64_t n) {
  const Exponential with = make_exponential();
  const int64_t size = element_size(element), pair_bytes = PAIR * size;
  vec sums[2 * UNROLLED] = {{0}};
  int64_t j = 0;
  for (; j + UNROLLED * PAIR <= n; j += UNROLLED * PAIR) {
    const char *x = source + j * size;
    for (int64_t k = 0; k < UNROLLED * pair_bytes; k += 64)
      prefetch(x + ROOF_PREFETCH_DISTANCE + k);
#pragma GCC unroll 2
    for (int c = 0; c < UNROLLED; c++) {
      const Two logits = load_two(x + c * pair_bytes, element);
      sums[2 * c] += exponential(&with, logits.first);
      sums[2 * c + 1] += exponential(&with, logits.second);
    }
  }
  for (; j < n; j += LANES) {
    const int64_t count = n - j < LANES ? n - j : LANES;
    sums[0] += exponential(&with, load_few(source + j * size, element, count));
  }
  double total = 0;
  for (int c = 1; c < 2 * UNROLLED; c++) sums[0] += sums[c];
  for (int k = 0; k < LANES; k++) total += (double)sums[0][k];
  return total;
}

/* UNROLLED pairs; their outputs are whole vectors where it `streams`. */
INLINED void write_group(const Exponential *with, const char *source,
                                      const int64_t element, char *output, const int streams) {
  const int64_t pair_bytes = PAIR * element_size(element);
  for (int64_t k = 0; k < UNROLLED * pair_bytes; k += 64) {
    prefetch(source + ROOF_PREFETCH_DISTANCE + k);
    if (!streams) prefetch_to_write(output + ROOF_PREFETCH_DISTANCE + k);
  }
#pragma GCC unroll 2
  for (int c = 0; c < UNROLLED; c++) {
    const Two logits = load_two(source + c * pair_bytes, element);
    const Two values = {exponential(with, logits.first), exponential(with, logits.second)};
    store_two(output + c * pair_bytes, values, element, streams);
  }
}

/* The output starts with a whole vector. Past the caches it is written at STREAMS places in turn,
 * as memcpy does: 262 MB took 0.9 of the time of one place. */
INLINED void write_of(const char *source, const int64_t element, int64_t n,
                                   char *output, const int streams) {
  const Exponential with = make_exponential();
  const int64_t size = element_size(element), group = UNROLLED * PAIR;
  const int64_t places = streams ? STREAMS : 1, part = n / (places * group) * group;
  for (int64_t j = 0; j < part; j += group)
    for (int64_t k = j; k < places * part; k += part)
      write_group(&with, source + k * size, element, output + k * size, streams);
  int64_t j = places * part;
  for (; j + group <= n; j += group)
    write_group(&with, source + j * size, element, output + j * size, streams);
  write_few(&with, source + j * size, element, n - j, output + j * size);
}

/* ---- segments -------------------------------------------------------------------------------- */

/* How many elements lie before the first 64 bytes of an array, or of what the call has of it. */
static inline int64_t before_first_line(const Context *context, const char *array) {
  const int64_t n = (int64_t)(-(uintptr_t)array % 64) / element_size(context->logits_element);
  return n < context->n_classes ? n : context->n_classes;
}

/* Where a segment starts: the first with the array, all others with 64 bytes of it. */
static inline int64_t segment_start(const Context *context, const char *array, int64_t segment) {
  const int64_t j = before_first_line(context, array) + segment * context->segment;
  if (segment == 0) return 0;
  return segment < context->n_segments && j < context->n_classes ? j : context->n_classes;
}

/* `call` with the element type as a constant; nothing for one that is not of this build. */
#if FASTXENT_REAL_BITS == 32
#define WITH_ELEMENT(element, call)        \
  if (element == FLOAT32) call(FLOAT32);   \
  if (element == FLOAT16) call(FLOAT16);   \
  if (element == BFLOAT16) call(BFLOAT16);
#else
#define WITH_ELEMENT(element, call) \
  if (element == FLOAT64) call(FLOAT64);
#endif

/* states[start * STATE_SIZE] = the sum of the exponentials of segments start..stop */
static inline void exp_sum(const Context *context, int64_t start, int64_t stop) {
  const int64_t element = context->logits_element;
  const int64_t first = segment_start(context, context->logits, start);
  const int64_t n = segment_start(context, context->logits, stop) - first;
  const char *source = context->logits + first * element_size(element);
  double *sum = context->states + start * STATE_SIZE;
#define SUM(its_element) *sum = sum_of(source, its_element, n)
  WITH_ELEMENT(element, SUM)
#undef SUM
}

INLINED void write_segments(const Context *context, const int64_t element,
                                         int64_t start, int64_t stop, const int streams) {
  const int64_t size = element_size(element);
  const int64_t end = segment_start(context, context->output, stop);
  int64_t j = segment_start(context, context->output, start);
  if (start == 0) {
    const Exponential with = make_exponential();
    j = before_first_line(context, context->output);
    write_few(&with, context->logits, element, j, context->output);
  }
  write_of(context->logits + j * size, element, end - j, context->output + j * size, streams);
  if (streams) finish_streams();
}

/* output_j = the exponential of logit j, for the classes of segments start..stop */
static inline void exp_write(const Context *context, int64_t start, int64_t stop) {
#define STREAM(its_element) write_segments(context, its_element, start, stop, 1)
#define WRITE(its_element) write_segments(context, its_element, start, stop, 0)
  if (context->output_streams) {
    WITH_ELEMENT(context->logits_element, STREAM)
  } else {
    WITH_ELEMENT(context->logits_element, WRITE)
  }
#undef STREAM
#undef WRITE
}

#endif
