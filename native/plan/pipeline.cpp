#include "plan/pipeline.h"

namespace knet {

std::unique_ptr<Program> plan(Graph graph, Device& device, Stages* told) {
  if (told) told->recorded = graph.text();

  graph = differentiate(std::move(graph));
  if (told) told->differentiated = graph.text();

  graph = simplify(std::move(graph));
  if (told) told->simplified = graph.text();

  graph = batch(std::move(graph), told ? &told->batched : nullptr);
  if (told) told->batched += graph.text();

  Schedule schedule = fuse(std::move(graph), device);
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
