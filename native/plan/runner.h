// Runs what is pending in a trace: looks the trace up among the plans, plans it on a miss, runs the program, hands out
// results.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "plan/pipeline.h"
#include "trace/trace.h"

namespace knet {

struct Plan;
struct Report;

class Runner {
 public:
  explicit Runner(Trace& t) : t_(t) {}
  // `history`: the trace goes on (an open grad call), so results of contractions and reductions are kept for
  // derivatives.
  void run(bool history);
  // Plans what is pending and notes in estimates() what it would need, but runs nothing.
  void estimate();

 private:
  Trace& t_;
  Graph graph(std::span<const uint32_t> outputs) const;
  std::vector<uint32_t> kept(std::span<const uint32_t> wanted) const;
  std::vector<uint32_t> wanted() const;
  std::shared_ptr<Plan> plan_for(std::span<const uint32_t> wanted, bool history, Report&);
  void compute(std::vector<uint32_t> wanted, bool history);
  const char* recorded(uint32_t value) const;
  void fail(std::span<const uint32_t> values, Error);
};

// What is known of the plan cache.
struct PlanStats {
  int64_t plans = 0, bytes = 0, hits = 0, misses = 0, runs = 0, evicted = 0;
};
PlanStats plan_stats();
void clear_plans();
int64_t& plan_cache_bytes();  // the limit; least recently used plans go first

// What programs need, of this thread, while its trace is `planning_only`: bytes of the arena, bytes of results,
// kernels.
struct Estimate {
  int64_t arena, results;
  int kernels;
};
std::vector<Estimate>& estimates();

// While set, every run is reported: its stages, whether the plan was new, and what differed from the nearest known one.
struct Report {
  Stages stages;
  bool fresh = false;
  std::string difference;
  std::vector<std::pair<uint32_t, Line>> lines;
};
std::function<void(Report)>& reporter();

}  // namespace knet
