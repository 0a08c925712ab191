/* How a thread computes with floats: how it rounds, whether it takes subnormal numbers for zeros.
 *
 * Kernels run in the default mode, whatever their caller's is: bits must not depend on it, nor on
 * which thread computes a row. On x86-64 reading the mode takes a few cycles and setting it some
 * ten, so it is set only where it is another. */
#ifndef FASTXENT_FLOAT_MODE_H
#define FASTXENT_FLOAT_MODE_H

#if defined(__x86_64__)
#include <xmmintrin.h>

typedef unsigned FloatMode;

enum { FLOAT_MODE_DEFAULT = 0x1f80, FLOAT_MODE_FLAGS = 0x3f }; /* the flags say what happened */

/* Computes in the default mode from here on; what was before, for `leave_float_mode`. */
static inline FloatMode enter_float_mode(void) {
  const FloatMode before = _mm_getcsr();
  if ((before & ~(unsigned)FLOAT_MODE_FLAGS) != FLOAT_MODE_DEFAULT) _mm_setcsr(FLOAT_MODE_DEFAULT);
  __asm__ volatile("" ::: "memory"); /* what is read behind it is not computed with before it */
  return before;
}

static inline void leave_float_mode(FloatMode before) {
  __asm__ volatile("" ::: "memory");
  if ((before & ~(unsigned)FLOAT_MODE_FLAGS) != FLOAT_MODE_DEFAULT) _mm_setcsr(before);
}

#else
#include <fenv.h>

typedef fenv_t FloatMode;

static inline FloatMode enter_float_mode(void) {
  FloatMode before;
  fegetenv(&before);
  fesetenv(FE_DFL_ENV);
  return before;
}

static inline void leave_float_mode(FloatMode before) { fesetenv(&before); }

#endif

/* Volatile, lest the compiler divide before the mode is set: it does not know that one needs the
 * other. */
static inline double divide_in_default_mode(double numerator, double denominator) {
  const volatile double above = numerator, below = denominator;
  const FloatMode before = enter_float_mode();
  const volatile double quotient = above / below;
  leave_float_mode(before);
  return quotient;
}

#endif
