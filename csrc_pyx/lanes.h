/* Tiles of the Cython twin: as many rows side by side as a register has lanes.
 *
 * Where classes are few, or lie far apart in memory, a row by itself keeps no register filled. A
 * tile holds LANES rows, one in each lane, class after class; every lane goes through the same
 * arithmetic as a block of a row does (primitives.h), by itself.
 */
#ifndef FASTXENT_LANES_H
#define FASTXENT_LANES_H

#include "primitives.h"

/* Tiles have at most so many classes, and so fit the L1 cache: 8 KiB. */
enum { LANE_CLASSES = 128 };
#define MOST_LANES 16

typedef struct {
  real values[LANE_CLASSES * (VECTOR_BYTES / sizeof(real))];
} Tile;

/* What is known of the rows of a tile, a lane each. */
typedef struct {
  double maximum[VECTOR_BYTES / sizeof(real)];
  double log_sum_exp[VECTOR_BYTES / sizeof(real)]; /* relative to the maximum */
  double scale[VECTOR_BYTES / sizeof(real)];       /* of the softmax: factor / sum_exp */
  double others[VECTOR_BYTES / sizeof(real)];      /* 1 - exp(m - m)/sum_exp */
} LaneSums;

/* What smoothing spreads over the classes of each row that are not masked: see BlockSpread. */
typedef struct {
  double dot[VECTOR_BYTES / sizeof(real)];
  double mass[VECTOR_BYTES / sizeof(real)];
  double count[VECTOR_BYTES / sizeof(real)];
} LaneSpread;

/* Rows and columns of a square of LANES by LANES reals exchanged. */
static inline void transpose(vec square[VECTOR_BYTES / sizeof(real)]) {
  const vec_bits lanes = {EXCHANGED_LANES(0)};
#pragma GCC unroll 4
  for (int half = 1; half < (int)LANES; half *= 2) {
    const vec_bits exchanged = {EXCHANGED_LANES(half)};
    const vec_bits upper = (lanes & half) != 0;
    /* lanes of the upper halves come from the other vector, whose lanes count from LANES on */
    const vec_bits low = (upper & (exchanged + (real_bits)LANES)) | (~upper & lanes);
    const vec_bits high = (upper & (lanes + (real_bits)LANES)) | (~upper & exchanged);
#pragma GCC unroll 16
    for (int k = 0; k < (int)LANES; k++)
      if (!(k & half)) {
        const vec a = square[k], b = square[k + half];
        square[k] = __builtin_shuffle(a, b, low);
        square[k + half] = __builtin_shuffle(a, b, high);
      }
  }
}

/* The logits of n rows; the other lanes hold 0. Element j of row k lies at
 * source + k * row_stride + j * class_stride; one of the two strides is an element's size. */
static inline void load_tile(Tile *tile, const char *source, int64_t element, int64_t n_classes,
                             int64_t n, int64_t row_stride, int64_t class_stride) {
  real buffer[VECTOR_BYTES / sizeof(real)];
  if (row_stride == element_size(element)) {
    for (int64_t j = 0; j < n_classes; j++) {
      const real *place = load_block(source + j * class_stride, element, n, buffer);
      store(tile->values + j * LANES, n == LANES ? load(place) : load_partial(place, n, 0));
    }
    return;
  }
  for (int64_t j = 0; j < n_classes; j += LANES) {
    const int64_t width = n_classes - j < LANES ? n_classes - j : LANES;
    vec square[VECTOR_BYTES / sizeof(real)];
    for (int64_t k = 0; k < LANES; k++) {
      if (k < n) {
        const real *place = load_block(source + k * row_stride + j * class_stride, element, width,
                                       buffer);
        square[k] = width == LANES ? load(place) : load_partial(place, width, 0);
      } else {
        square[k] = broadcast(0);
      }
    }
    transpose(square);
    for (int64_t k = 0; k < width; k++) store(tile->values + (j + k) * LANES, square[k]);
  }
}

/* The values of n rows to where they belong: load_tile the other way round. */
static inline void store_tile(const Tile *tile, char *destination, int64_t element,
                              int64_t n_classes, int64_t n, int64_t row_stride,
                              int64_t class_stride) {
  real buffer[VECTOR_BYTES / sizeof(real)];
  if (row_stride == element_size(element)) {
    for (int64_t j = 0; j < n_classes; j++) {
      char *place = destination + j * class_stride;
      real *output = output_block(place, element, buffer);
      const vec value = load(tile->values + j * LANES);
      if (n == LANES)
        store(output, value);
      else
        store_partial(output, value, n);
      store_block(output, n, place, element);
    }
    return;
  }
  for (int64_t j = 0; j < n_classes; j += LANES) {
    const int64_t width = n_classes - j < LANES ? n_classes - j : LANES;
    vec square[VECTOR_BYTES / sizeof(real)];
    for (int64_t k = 0; k < LANES; k++)
      square[k] = k < width ? load(tile->values + (j + k) * LANES) : broadcast(0);
    transpose(square);
    for (int64_t k = 0; k < n; k++) {
      char *place = destination + k * row_stride + j * class_stride;
      real *output = output_block(place, element, buffer);
      if (width == LANES)
        store(output, square[k]);
      else
        store_partial(output, square[k], width);
      store_block(output, width, place, element);
    }
  }
}

/* A Reference for each lane. */
typedef struct {
  vec shift;
  vec maximum;
  vec lowest;
  vec rounder;
} LaneReference;

static inline void refer_lanes_to(vec largest, LaneReference *reference) {
  const double ln2 = 0x1.62e42fefa39efp-1;
  const vec zero = broadcast(0);
  const vec_bits finite = largest - largest == zero;
  const vec magnitude = choose(largest < zero, zero - largest, largest);
  const vec_bits far = finite & (magnitude > broadcast((real)EXACT_DIFFERENCE));
  const vec shift = choose(far, largest, zero);
  const vec m = choose(finite, largest - shift, zero);
  const vec rounder = broadcast((real)ROUNDER);
  const vec n = multiply_add(m, broadcast((real)(STEPS * LOG2_E)), rounder) - rounder;
  const vec offset = broadcast((real)(STEPS * (SPARE_EXPONENT + EXPONENT_OFFSET)));
  reference->shift = shift;
  reference->maximum = choose(finite, m, broadcast((real)NAN));
  reference->lowest = (n - offset) * broadcast((real)(ln2 / STEPS));
  reference->rounder = (rounder + offset) - n;
}

/* exp(x - m) / factor as power * (1 + part), each lane relative to a maximum of its own. */
static inline Reduced lane_reduce(vec x, const LaneReference *reference, const Table *table) {
  return reduce_with(x - reference->shift, reference->lowest, reference->rounder, table);
}

/* log(1 + y) for y >= 0, to 2^-44 of itself: 1 + y = 2^k (1 + f), and with s = f / (2 + f)
 * log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...). Where k is 0, f is y itself, which keeps the digits of
 * a confident row. The arithmetic of lanes is in float32, and 16 calls of log1p would take longer
 * than all the rest of a tile of 10 classes. */
static inline wide lane_log1p(wide y) {
  const double ln2 = 0x1.62e42fefa39efp-1;
  const wide_bits half = (wide_bits)((wide){0} + 0x1.6a09e667f3bcdp-1);
  const wide total = y + 1.0;
  const wide_bits exponent = ((wide_bits)total - half) >> 52;
  const wide mantissa = (wide)((wide_bits)total - (exponent << 52));
  const wide f = choose_wide(exponent == 0, y, mantissa - 1.0);
  const wide s = f / (f + 2.0), z = s * s;
  wide series = (wide){0} + 1.0 / 15;
  series = series * z + 1.0 / 13;
  series = series * z + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  /* the exponent as a float: its bits put below those of 1.5 * 2^52 */
  const wide rounder = (wide){0} + 0x1.8p52;
  const wide k = (wide)(exponent + (wide_bits)rounder) - rounder;
  /* y - y: 0, or NaN for a NaN, which taken apart into exponent and mantissa would be one no more */
  return (k * ln2 + (2.0 * s + 2.0 * s * z * series)) + (y - y);
}

/* The sums of a tile, and what they are relative to. Every term is added in float64: a sum of a few
 * in float32 has nothing to average its roundings with, and was wrong by 2.9 ULP at worst instead of
 * 1.5. Meanwhile memory is asked for the lines of a tile that comes later, the first
 * at `ahead` and one further on by `ahead_stride` for every class, and for those of this tile's
 * output, which are about to be written (20000 x 100 float32 with gradient, one thread: 2.1 ms
 * against 3.0). */
static inline void sum_tile(const Tile *tile, int64_t n_classes, const char *ahead,
                            int64_t ahead_stride, const char *output, int64_t output_stride,
                            LaneSums *sums, LaneReference *reference) {
  const Table table = make_table();
  const real *values = tile->values;
  vec largest = broadcast((real)-INFINITY);
  for (int64_t j = 0; j < n_classes; j++) largest = maximum(load(values + j * LANES), largest);
  refer_lanes_to(largest, reference);
  /* exp(m - m) / factor as it comes out of the exponential, not rounded to 1 */
  const Reduced one = lane_reduce(largest, reference, &table);
  line_sum rest, unit, count, maxima;
  memset(&rest, 0, sizeof rest);
  memset(&unit, 0, sizeof unit);
  memset(&count, 0, sizeof count);
  memset(&maxima, 0, sizeof maxima);
  vec counts = broadcast(0);
  for (int64_t j = 0; j < n_classes; j++) {
    prefetch(ahead + j * ahead_stride);
    prefetch_to_write(output + j * output_stride);
    const vec x = load(values + j * LANES);
    const vec_bits equal = x - reference->shift == reference->maximum;
    line_sum_add(&rest, 0, keep(~equal, put_together(lane_reduce(x, reference, &table))));
    counts += keep(equal, broadcast(1));
  }
  line_sum_add(&unit, 0, one.power);
  line_sum_add(&unit, 0, one.power * one.part);
  line_sum_add(&count, 0, counts);
  line_sum_add(&maxima, 0, largest);
  for (int c = 0; c < (int)(LANES / WIDE_LANES); c++) {
    /* sum_exp = 1 + above; a row without a finite maximum has no count, and no softmax: NaN */
    const wide above = rest.lanes[c] / unit.lanes[c] + (count.lanes[c] - 1.0);
    const wide y = choose_wide(above >= 0.0, above, (wide){0} + NAN);
    const wide log_sum_exp = lane_log1p(y);
    const wide scale = 1.0 / ((y + 1.0) * unit.lanes[c]), others = y / (y + 1.0);
    memcpy(sums->maximum + c * WIDE_LANES, &maxima.lanes[c], sizeof(wide));
    memcpy(sums->log_sum_exp + c * WIDE_LANES, &log_sum_exp, sizeof(wide));
    memcpy(sums->scale + c * WIDE_LANES, &scale, sizeof(wide));
    memcpy(sums->others + c * WIDE_LANES, &others, sizeof(wide));
  }
}

/* Float64 numbers as a vector of reals. */
static inline vec vector_from(const double *numbers) {
  vec vector = broadcast(0);
  for (int k = 0; k < (int)LANES; k++) vector[k] = (real)numbers[k];
  return vector;
}

/* shift_exponent, by an exponent for each lane. */
static inline LaneReference shift_lanes(const LaneReference *reference, const double *exponents) {
  const vec exponent = vector_from(exponents);
  LaneReference shifted = *reference;
  shifted.lowest += exponent * broadcast((real)0x1.62e42fefa39efp-1);
  shifted.rounder -= exponent * broadcast((real)STEPS);
  return shifted;
}

/* values_j = scale * exp(x_j - m) / factor */
static inline void softmax_tile(Tile *tile, int64_t n_classes, const LaneReference *reference,
                                const double *scales) {
  const Table table = make_table();
  const vec scale = vector_from(scales);
  for (int64_t j = 0; j < n_classes; j++) {
    real *place = tile->values + j * LANES;
    store(place, scaled(lane_reduce(load(place), reference, &table), scale));
  }
}

/* w_j * (m - x_j) and w_j summed over the classes that are not masked, in float64. */
static inline void spread_tile(const Tile *tile, int64_t n_classes, const real *class_weights,
                               const double *maxima, LaneSpread *spread) {
  line_sum dots, masses;
  memset(&dots, 0, sizeof dots);
  memset(&masses, 0, sizeof masses);
  vec counts = broadcast(0);
  const vec m = vector_from(maxima), masked = broadcast((real)-INFINITY);
  for (int64_t j = 0; j < n_classes; j++) {
    const vec x = load(tile->values + j * LANES);
    const vec weight = broadcast(class_weights ? class_weights[j] : 1);
    line_sum_add(&dots, 0, keep(x != masked, (m - x) * weight));
    line_sum_add(&masses, 0, keep(x != masked, weight));
    counts += keep(x != masked, broadcast(1));
  }
  for (int c = 0; c < (int)(LANES / WIDE_LANES); c++) {
    memcpy(spread->dot + c * WIDE_LANES, &dots.lanes[c], sizeof(wide));
    memcpy(spread->mass + c * WIDE_LANES, &masses.lanes[c], sizeof(wide));
  }
  for (int k = 0; k < (int)LANES; k++) spread->count[k] = (double)counts[k];
}

/* values_j = scale * exp(x_j - m) / factor - spread * w_j, less nothing at a class that is masked */
static inline void subtract_spread_from_tile(Tile *tile, int64_t n_classes,
                                             const LaneReference *reference, const double *scales,
                                             const double *spreads, const real *class_weights) {
  const Table table = make_table();
  const vec scale = vector_from(scales), spread = vector_from(spreads);
  for (int64_t j = 0; j < n_classes; j++) {
    real *place = tile->values + j * LANES;
    const vec x = load(place);
    const vec own = spread * broadcast(class_weights ? class_weights[j] : 1);
    const vec value = scaled(lane_reduce(x, reference, &table), scale);
    store(place, value - keep(x != broadcast((real)-INFINITY), own));
  }
}

/* values_j = total * p_j * (1 - p_j), with p_j = scale * exp(x_j - m) / factor */
static inline void hessian_tile(Tile *tile, int64_t n_classes, const LaneReference *reference,
                                const double *scales, const double *others,
                                const double *totals) {
  const Table table = make_table();
  const vec scale = vector_from(scales), rest = vector_from(others), total = vector_from(totals);
  for (int64_t j = 0; j < n_classes; j++) {
    real *place = tile->values + j * LANES;
    const vec p = scaled(lane_reduce(load(place), reference, &table), scale);
    const vec most = choose(p > broadcast((real)0.5), rest, broadcast(1) - p);
    store(place, p * most * total);
  }
}

/* values_j = (x_j - m) - log(sum_exp) */
static inline void log_softmax_tile(Tile *tile, int64_t n_classes, const double *maxima,
                                    const double *logs) {
  const vec m = vector_from(maxima), log_sum = vector_from(logs);
  for (int64_t j = 0; j < n_classes; j++) {
    real *place = tile->values + j * LANES;
    store(place, (load(place) - m) - log_sum);
  }
}

#endif
