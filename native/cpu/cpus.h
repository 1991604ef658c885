// What the system says of CPUs, and what the threads of the pool ask of it. Elsewhere than on Linux: how many there are.
#pragma once
#include <span>

namespace knet::cpu {

int granted_cpus();         // that this process may use: affinity, and the quota of its control group
void take_short_slices();   // for this thread, not for what it forks; where they cannot be had, nothing changes
int this_thread();          // its number for Detour
int this_cpu();             // where this thread runs now; -1: unknown

// Keeps a thread that is about to be woken away from CPUs at first.
class Detour {
 public:
  bool begin(int thread, std::span<const int> taken);  // false: there are no others
  void end();                                          // by the thread itself: it may run where it might before

 private:
  unsigned long usual_[1024 / (8 * sizeof(unsigned long))];
};

}  // namespace knet::cpu
