/* What is done to logits before their softmax: soft-capping, then a temperature.
 *
 *     y(x) = c tanh(x/c) / T
 *
 * The softmax needs differences y(x_j) - y(m), and an error of theirs is a relative error of an
 * exponential: rounded, a difference of 40 would cost 20 ULP. So each is a Pair, two reals whose
 * exact sum is meant. tanh comes from q = e^(-2|x|/c) as (1 - q)/(1 + q), all of it in Pairs.
 * docs/numerics.md has the errors.
 *
 * -inf stays -inf, a class that is masked; +inf and NaN become NaN, as without a cap.
 */
#ifndef FASTXENT_TRANSFORM_H
#define FASTXENT_TRANSFORM_H

#include "vector.h"

/* 1/k! for the end of the exponential's series; 1/3! with what rounding leaves out of it. */
#if FASTXENT_REAL_BITS == 32
#define LAST_POWER 9
#define CAP_LIMIT 60.0            /* beyond it 1 - tanh is below the smallest number */
#else
#define LAST_POWER 15
#define CAP_LIMIT 400.0
#endif
static const double FACTORIALS[16] = {
    1.0, 1.0, 2.0, 6.0, 24.0, 120.0, 720.0, 5040.0, 40320.0, 362880.0, 3628800.0, 39916800.0,
    479001600.0, 6227020800.0, 87178291200.0, 1307674368000.0};

typedef struct {
  int divides; /* whether the temperature is not 1 */
  int caps;
  Pair inverse_temperature; /* a division takes as long as ten products */
  Pair cap;
  Pair inverse_cap;
} Transform;

/* A float64 number as a Pair. */
static inline Pair pair_of(double number) {
  const real value = (real)number;
  return (Pair){broadcast(value), broadcast((real)(number - (double)value))};
}

/* 1 / number as a Pair, for a number that is not 0. */
static inline Pair inverse_of(double number) {
  const double inverse = 1 / number, rest = fma(-inverse, number, 1) / number;
  const real value = (real)inverse;
  return (Pair){broadcast(value), broadcast((real)((inverse - (double)value) + rest))};
}

static inline Transform make_transform(double temperature, double softcap) {
  const double cap = softcap != 0.0 ? softcap : 1.0;
  return (Transform){temperature != 1.0, softcap != 0.0, inverse_of(temperature), pair_of(cap),
                     inverse_of(cap)};
}

/* 2^-n for integers n from 0 to EXPONENT_OFFSET - 1. */
INLINED vec negative_power(vec n) {
  const vec rounder = broadcast((real)(ROUNDER + EXPONENT_OFFSET));
  return (vec)((vec_bits)(rounder - n) << MANTISSA_BITS);
}

/* e^-v for v >= 0 up to twice CAP_LIMIT: v = n ln2 - r, and
 * e^r = 1 + r + r^2/2 + r^3/6 + r^4 (...), the first terms in Pairs. */
INLINED Pair falling_exponential(Pair v) {
  const vec rounder = broadcast((real)ROUNDER);
  const vec n = multiply_add(v.value, broadcast((real)LOG2_E), rounder) - rounder;
  const vec high = n * broadcast((real)LN2_HIGH) - v.value; /* exact: near 0, or n is 0 */
  Pair r = exact_sum(high, n * broadcast((real)LN2_LOW));
  r.low -= v.low;
  Pair square = exact_product(r.value, r.value);
  square.low += 2 * r.value * r.low;
  Pair cube = exact_product(square.value, r.value);
  cube.low += square.low * r.value + square.value * r.low;
  const real third = (real)(1.0 / 6.0);
  /* what 1/6 is larger than its rounded value: (1 - 6 third) / 6, the product being exact there */
  const real third_low = FASTXENT_REAL_BITS == 32 ? (real)(1.0 / 6.0 - (double)third)
                                                  : (real)0x1.5555555555555p-57;
  Pair sixth = exact_product(cube.value, broadcast(third));
  sixth.low += cube.value * third_low + cube.low * third;
  vec series = broadcast((real)(1.0 / FACTORIALS[LAST_POWER]));
#pragma GCC unroll 16
  for (int k = LAST_POWER - 1; k > 3; k--)
    series = multiply_add(series, r.value, broadcast((real)(1.0 / FACTORIALS[k])));
  const vec fourth = square.value * square.value * series;
  const Pair first = ordered_sum(broadcast(1), r.value);
  const Pair second = ordered_sum(first.value, square.value * (real)0.5);
  const Pair third_sum = ordered_sum(second.value, sixth.value);
  const vec low = (((first.low + second.low) + third_sum.low) + (r.low + square.low * (real)0.5)) +
                  (sixth.low + fourth);
  const Pair sum = ordered_sum(third_sum.value, low);
  /* in two steps: 2^-n itself may be below the normal range */
  const vec half = (n * (real)0.5 + rounder) - rounder;
  const vec scale = negative_power(half), rest = negative_power(n - half);
  return (Pair){sum.value * scale * rest, sum.low * scale * rest};
}

/* c tanh(x/c), and its derivative 1 - tanh^2 unless `slope` is NULL. */
INLINED Pair cap_logits(vec x, const Transform *transform, Pair *slope) {
  const vec limit = broadcast((real)CAP_LIMIT);
  Pair ratio = multiply_pairs((Pair){magnitude(x), broadcast(0)}, transform->inverse_cap);
  const vec_bits within = ratio.value < limit;
  ratio.value = choose(within, ratio.value, limit);
  ratio.low = keep(within, ratio.low);
  const Pair q = falling_exponential((Pair){2 * ratio.value, 2 * ratio.low});
  Pair below = ordered_sum(broadcast(1), -q.value), above = ordered_sum(broadcast(1), q.value);
  below.low -= q.low;
  above.low += q.low;
  const Pair inverse = invert_pair(above);
  const Pair capped = multiply_pairs(transform->cap, multiply_pairs(below, inverse));
  if (slope)
    *slope = multiply_pairs(multiply_pairs((Pair){4 * q.value, 4 * q.low}, inverse), inverse);
  const vec_bits negative = x < broadcast(0);
  return (Pair){choose(negative, -capped.value, capped.value),
                choose(negative, -capped.low, capped.low)};
}

/* What differences are taken to: a finite logit m, and m capped. */
typedef struct {
  Transform transform;
  vec maximum;
  Pair capped;
} TransformReference;

static inline TransformReference transform_relative_to(double maximum, double temperature,
                                                       double softcap) {
  TransformReference reference = {make_transform(temperature, softcap), broadcast((real)maximum),
                                  {broadcast(0), broadcast(0)}};
  if (reference.transform.caps)
    reference.capped = cap_logits(reference.maximum, &reference.transform, NULL);
  return reference;
}

/* y(x) - y(m); with a cap, and unless `slope` is NULL, y'(x) T, which is 1 at a class that is
 * masked. */
INLINED Pair transformed_difference(vec x, const TransformReference *reference, Pair *slope) {
  const vec none = broadcast(0), masked_logit = broadcast((real)-INFINITY);
  Pair difference;
  if (reference->transform.caps) {
    const Pair own = cap_logits(x, &reference->transform, slope), other = reference->capped;
    if (slope) {
      slope->value = choose(x == masked_logit, broadcast(1), slope->value);
      slope->low = keep(x != masked_logit, slope->low);
    }
    difference = exact_sum(own.value, -other.value);
    difference = exact_sum(difference.value, difference.low + (own.low - other.low));
    const vec_bits equal = x == reference->maximum;
    difference.value = choose(equal, none, difference.value);
    difference.low = choose(equal, none, difference.low);
  } else {
    difference = exact_sum(x, -reference->maximum);
  }
  if (reference->transform.divides)
    difference = multiply_pairs(difference, reference->transform.inverse_temperature);
  /* x - x: 0, or NaN for what is not finite */
  difference.value = choose(x == masked_logit, x, difference.value + (x - x));
  difference.low = keep(x != masked_logit, difference.low);
  return difference;
}

/* A Pair of float64 numbers. */
typedef struct {
  double value;
  double low;
} Gap;

/* y(x) - y(m); where x or m is infinite what comes of their difference. */
static inline Gap transformed_gap(double x, double m, double temperature, double softcap) {
  if (softcap == 0.0) {
    const double difference = x - m, part = difference - x;
    const double error = (x - (difference - part)) + (-m - part);
    const double quotient = difference / temperature;
    if (quotient - quotient != 0) return (Gap){quotient, 0};
    return (Gap){quotient, (fma(-quotient, temperature, difference) + error) / temperature};
  }
  if (x - x != 0 || m - m != 0) return (Gap){x - m, 0};
  const TransformReference reference = transform_relative_to(m, temperature, softcap);
  const Pair found = transformed_difference(broadcast((real)x), &reference, NULL);
  return (Gap){(double)found.value[0], (double)found.low[0]};
}

/* y(x) for a finite x; the others stay what they are. */
static inline double transformed_value(double x, double temperature, double softcap) {
  if (x - x != 0) return x;
  if (softcap == 0.0) return x / temperature;
  const Transform transform = make_transform(temperature, softcap);
  const Pair capped = cap_logits(broadcast((real)x), &transform, NULL);
  return ((double)capped.value[0] + (double)capped.low[0]) / temperature;
}

#endif
