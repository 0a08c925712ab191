/* Which of the builds this CPU runs; the operating system's support is part of the answer. */
#ifndef FASTXENT_CPU_H
#define FASTXENT_CPU_H

#include <string.h>

static inline int cpu_runs(const char *instruction_set) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                 __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                 __builtin_cpu_supports("f16c");
  const int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl");
  if (strcmp(instruction_set, "x86-64-v2") == 0) return v2;
  if (strcmp(instruction_set, "x86-64-v3") == 0) return v3;
  if (strcmp(instruction_set, "x86-64-v4") == 0) return v4;
  return 0;
#else
  return strcmp(instruction_set, "generic") == 0;
#endif
}

static inline const char *cpu_instruction_set(void) {
#if defined(__x86_64__)
  if (cpu_runs("x86-64-v4")) return "x86-64-v4";
  if (cpu_runs("x86-64-v3")) return "x86-64-v3";
  if (cpu_runs("x86-64-v2")) return "x86-64-v2";
  return "none";
#else
  return "generic";
#endif
}

#endif
