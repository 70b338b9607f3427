// One function, compiled for several instruction sets; the loader picks the best that the machine has.
//
// The bodies are plain loops over integers, which vectorise well from AVX2 on and poorly in the x86-64 baseline.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define ZSU_TARGET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ZSU_TARGET_CLONES
#endif
