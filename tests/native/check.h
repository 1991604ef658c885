// Checks are counted; those that fail are printed, the first thirty of them.
#pragma once
#include <cstdio>
#include <string>

inline int checks = 0, failures = 0;

inline void check(bool ok, const std::string& what) {
  ++checks;
  if (!ok && ++failures <= 30) std::printf("FAILED %s\n", what.c_str());
}

#define CHECK(c) check(bool(c), std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #c)

// What main returns.
inline int report() {
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
