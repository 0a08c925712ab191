/* One call, as the kernels see it. Every field is 8 bytes wide; fastxent/backends/context.py packs
 * the same fields in the same order, and a test compares the two. */
#ifndef FASTXENT_CONTEXT_H
#define FASTXENT_CONTEXT_H

#include <stdint.h>

/* Element types in memory; what the loss is taken against; what is written for each class. */
enum { FLOAT16 = 0, BFLOAT16 = 1, FLOAT32 = 2, FLOAT64 = 3 };
enum { TARGET_NOTHING = 0, TARGET_LABELS = 1, TARGET_PROBS = 2 };
enum { OUTPUT_NOTHING = 0, OUTPUT_GRADIENT = 1, OUTPUT_LOG_SOFTMAX = 2, OUTPUT_HESSIAN = 3 };
enum { OUTPUT_LABEL_GRADIENT = 4, OUTPUT_HESSIAN_PRODUCT = 5 };

/* Sums start afresh every SEGMENT classes; what a segment leaves behind is STATE_SIZE numbers. */
enum { SEGMENT = 16384, STATE_SIZE = 16 };

/* The exponentials of a row of up to SEGMENT classes are kept on a thread's stack, 64 kB, and those
 * of a row of up to SCRATCH_CLASSES in its scratch memory. Longer ones have not been measured. */
enum { SCRATCH_CLASSES = 131072 };

/* A larger output goes past the caches: it would drive out all that is in them. */
enum { STREAM_BYTES = 33554432 };

typedef struct {
  int64_t n_classes;
  int64_t segment;         /* classes in a segment: sums start afresh at each */
  int64_t n_segments;      /* segments in a row */
  int64_t n_inner;         /* rows at logits_inner_stride from each other, before the next stride */
  const char *logits;
  int64_t logits_stride;   /* bytes from one run of n_inner rows to the next */
  int64_t logits_inner_stride;
  int64_t logits_class_stride;
  int64_t logits_element;
  int64_t target;          /* what the loss is taken against: nothing, labels or probabilities */
  const int64_t *labels;
  int64_t class_offset;    /* the label of the first class here: others hold the rest of the row */
  int64_t n_labels;        /* labels are below it */
  int64_t has_ignore_index;
  int64_t ignore_index;
  const char *probs;
  int64_t probs_stride;
  int64_t probs_element;
  const void *class_weights;  /* one a class, in the type of the arithmetic, or NULL */
  const double *class_masses; /* their sum over each block of a row */
  const double *row_weights;  /* one a row, or NULL */
  double label_scale;      /* what the label, or the probabilities, are multiplied by: 1 - smoothing */
  double smoothing;        /* the mass that is spread over the classes that are not masked */
  double z_loss;           /* multiplies the square of logsumexp */
  double temperature;
  double softcap;          /* 0: none */
  int64_t transforms;      /* whether logits are capped or divided by a temperature */
  double hess_factor;
  const char *partners;    /* rows of another array: vectors, or the logits of a teacher */
  int64_t partners_stride;
  int64_t partners_element;
  int64_t output_kind;     /* what is written for each class: nothing, a gradient, ... */
  char *output;
  int64_t output_stride;
  int64_t output_inner_stride;
  int64_t output_class_stride;
  double output_scale;     /* the gradient is multiplied by it, and by 2^output_exponent */
  int64_t output_exponent; /* 0 unless a number by itself could not hold the two */
  int64_t output_streams;  /* whether the output goes past the caches: it is larger than they are */
  double *losses;          /* one a row */
  double *states;          /* STATE_SIZE numbers a segment or a row */
  double *totals;          /* a few numbers of all rows */
  char *scratch;           /* of the thread: room for n_classes float32 and two lines more, or NULL */
  int64_t scratch_stride;  /* bytes from a thread's to the next one's */
} Context;

#endif
