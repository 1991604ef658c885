#include "plan/pipeline.h"

namespace knet {

std::unique_ptr<Program> plan(Graph graph, Device& device, Stages* told) {
  if (told) told->recorded = graph.text();
  Blocks::Turns turns;
  bool fresh = true;  // the last stage made a new graph, so that nothing of the one before is needed
  auto run = [&](auto stage) {
    if (fresh) turns.next();
    const auto* before = graph.nodes.data();
    graph = stage(std::move(graph));
    fresh = graph.nodes.data() != before;
  };

  run(differentiate);
  if (told) told->differentiated = graph.text();

  run(simplify);
  if (told) told->simplified = graph.text();

  run([&](Graph g) { return batch(std::move(g), told ? &told->batched : nullptr); });
  if (told) told->batched += graph.text();

  if (fresh) turns.next();
  Schedule schedule = fuse(std::move(graph), device);
  guard(schedule);
  if (told) told->fused = schedule.text();

  Placement placement = place(schedule);
  if (told) told->placed = placement.text(schedule);

  auto program = Program::build(schedule, placement, device);
  if (told) {
    told->lines = schedule.lines();
    told->kernels = program->kernels;
    told->arena_bytes = program->arena_bytes;
    told->live_bytes = program->live_bytes;
    told->output_bytes = program->output_bytes;
  }
  return program;
}

}  // namespace knet
