#include "plan/describe.h"

#include <cstdio>

namespace knet {

std::string human_bytes(int64_t n) {
  static const char* unit[] = {"B", "kB", "MB", "GB", "TB"};
  double x = double(n);
  int u = 0;
  while (x >= 1000 && u < 4) x /= 1000, ++u;
  char text[32];
  std::snprintf(text, sizeof text, u ? "%.1f %s" : "%.0f %s", x, unit[u]);
  return text;
}

std::string describe(const TileProgram& p, std::span<const uint32_t> in, std::span<const uint32_t> out) {
  const size_t n_in = p.inputs.size(), n = n_in + p.instrs.size();
  std::vector<uint32_t> uses(n, 0);
  std::vector<std::string> text(n);
  for (const auto& i : p.instrs)
    for (int j = 0; j < i.n_src; ++j) ++uses[i.src[j]];
  for (const auto& o : p.outputs) ++uses[o.reg];
  std::vector<const TileProgram::Output*> stored(n, nullptr);
  auto value = [](uint32_t v) { return "v" + std::to_string(v); };
  std::vector<std::string> outputs(n);
  for (size_t k = 0; k < p.outputs.size(); ++k)
    if (p.outputs[k].what == TileProgram::Output::Store) {
      stored[p.outputs[k].reg] = &p.outputs[k];
      outputs[p.outputs[k].reg] = value(out[k]);
    }
  for (size_t r = 0; r < n_in; ++r) text[r] = value(in[r]);
  DType t = p.outputs.empty() ? DType::F32 : p.outputs[0].dtype;
  std::string s = std::string("tile ") + name(t) + str(p.dims) + ":";
  size_t temporaries = 0;
  bool first = true;
  auto statement = [&](const std::string& what) {
    s += (first ? " " : "; ") + what;
    first = false;
  };
  for (size_t k = 0; k < p.instrs.size(); ++k) {
    const auto& i = p.instrs[k];
    const size_t r = n_in + k;
    std::string e = info(i.op).name;
    if (i.what == TileProgram::Instr::RowReduce) e += " rows";
    e += "(";
    for (int j = 0; j < i.n_src; ++j) e += (j ? ", " : "") + text[i.src[j]];
    if (info(i.op).kind == Kind::Elementwise && i.n_src == 1 && i.dtype != i.to) e += std::string(", ") + name(i.to);
    e += ")";
    // What is used twice, or has grown long, gets a name of its own.
    if (stored[r]) {
      statement(outputs[r] + " = " + e);
      text[r] = outputs[r];
    } else if (uses[r] > 1 || e.size() > 80) {
      text[r] = "t" + std::to_string(++temporaries);
      statement(text[r] + " = " + e);
    } else {
      text[r] = e;
    }
  }
  for (size_t k = 0; k < p.outputs.size(); ++k) {
    const auto& o = p.outputs[k];
    if (o.what == TileProgram::Output::Store) continue;
    const char* over = o.what == TileProgram::Output::ReduceAll ? " all(" :
                       o.what == TileProgram::Output::ReduceCols ? " columns(" : " some(";
    statement(value(out[k]) + " = " + info(o.reduce).name + over + text[o.reg] + ")");
  }
  return s;
}

}  // namespace knet
