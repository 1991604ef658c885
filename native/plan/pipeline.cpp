#include "plan/pipeline.h"

namespace knet {

std::unique_ptr<Program> plan(Graph recorded, Device& device) {
  Graph differentiated = differentiate(std::move(recorded));
  Graph simplified = simplify(std::move(differentiated));
  Graph batched = batch(std::move(simplified));
  Schedule schedule = fuse(std::move(batched), device);
  Placement placement = place(schedule);
  return Program::build(schedule, placement, device);
}

Stages explain(Graph recorded, Device& device) {
  Stages s;
  s.recorded = recorded.text();
  Graph differentiated = differentiate(std::move(recorded));
  s.differentiated = differentiated.text();
  Graph simplified = simplify(std::move(differentiated));
  s.simplified = simplified.text();
  Graph batched = batch(std::move(simplified));
  s.batched = batched.text();
  Schedule schedule = fuse(std::move(batched), device);
  s.fused = schedule.text();
  Placement placement = place(schedule);
  s.placed = placement.text(schedule);
  auto program = Program::build(schedule, placement, device);
  s.program = program->text();
  s.kernels = program->kernels;
  s.arena_bytes = program->arena_bytes;
  s.live_bytes = program->live_bytes;
  s.output_bytes = program->output_bytes;
  return s;
}

}  // namespace knet
