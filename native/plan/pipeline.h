// From a trace's graph to a program, stage by stage. Each stage is a function from data to data in a file of its own.
#pragma once
#include <memory>
#include "plan/program.h"

namespace knet {

// Replaces each `grad` node by the operations that compute the gradient.
Graph differentiate(Graph);
// Expands compound operations, removes what is not needed, not new or the identity, and folds what can be folded.
Graph simplify(Graph);
// Joins independent operations of one signature into one. `told`: what was joined, in words.
Graph batch(Graph, std::string* told = nullptr);
// Schedule fuse(Graph, Device&), void guard(Schedule&), Placement place(const Schedule&), Program::build: see
// program.h.

// The text of every stage, for `explain`.
struct Stages {
  std::string recorded, differentiated, simplified, batched, fused, placed, program;
  std::vector<std::string> lines;  // each kernel
  int kernels = 0;
  int64_t arena_bytes = 0, live_bytes = 0, output_bytes = 0;
};

std::unique_ptr<Program> plan(Graph, Device&, Stages* told = nullptr);

}  // namespace knet
