// Building and printing graphs.
#include "plan/graph.h"
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize")  // lists of one or two: see infer.h
#endif

#include <algorithm>

namespace knet {

uint32_t Graph::add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attrs, int32_t line) {
  constexpr size_t kFew = 16;
  const Spec* few[kFew];
  std::vector<const Spec*> many;
  const Spec** specs = few;
  if (in.size() > kFew) {
    many.resize(in.size());
    specs = many.data();
  }
  for (size_t i = 0; i < in.size(); ++i) specs[i] = &values[in[i]];
  Specs out;
  infer(op, {specs, in.size()}, attrs, out);
  return add(op, in, attrs, {out.v, size_t(out.n)}, line);
}

namespace {

[[noreturn, gnu::cold, gnu::noinline]] void too_many(Op op, size_t inputs, size_t attributes) {
  throw Error(Error::Value, std::string("[") + info(op).name + "] too many inputs or attributes: " +
                                std::to_string(inputs) + " and " + std::to_string(attributes) +
                                ". At most 65535 fit one operation: apply it in groups.");
}

}  // namespace

uint32_t Graph::add(Op op, std::span<const uint32_t> in, std::span<const int64_t> attr_words,
                    std::span<const Spec> specs, int32_t line) {
  constexpr size_t kMost = 0xffff;
  if (in.size() > kMost || attr_words.size() > kMost) [[unlikely]] too_many(op, in.size(), attr_words.size());
  Node& n = *nodes.more(1);
  n.op = op;
  n.n_in = uint16_t(in.size());
  n.n_out = uint16_t(specs.size());
  n.n_attr = uint16_t(attr_words.size());
  n.in_at = uint32_t(ins.size());
  n.attr_at = uint32_t(attrs.size());
  n.out = uint32_t(values.size());
  n.line = line;
  // The arguments may be parts of these very pools: a list that grows leaves its old memory as it was.
  auto append = []<class T>(List<T>& pool, std::span<const T> more) {
    T* to = pool.more(more.size());
    for (const T& x : more) *to++ = x;
  };
  append(ins, in);
  append(attrs, attr_words);
  const uint32_t here = uint32_t(nodes.size() - 1);
  if (specs.size() == 1) [[likely]] {
    *values.more(1) = specs[0];
    *maker.more(1) = here;
    return n.out;
  }
  append(values, specs);
  uint32_t* makers = maker.more(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) makers[i] = here;
  return n.out;
}

uint32_t Graph::constant(Scalar s, DType t) {
  Spec spec;
  spec.dtype = t;
  if (!values.empty()) spec.device = values[0].device;
  int64_t words[2] = {int64_t(t), s.i};
  return add(Op::constant, {}, words, {&spec, 1});
}

std::string Graph::text() const {
  std::string s;
  std::vector<int32_t> input(values.size(), -1), scalar(values.size(), -1);
  for (size_t i = 0; i < inputs.size(); ++i) input[inputs[i]] = int32_t(i);
  for (size_t i = 0; i < scalars.size(); ++i) scalar[scalars[i]] = int32_t(i);
  auto value = [](uint32_t v) { return "v" + std::to_string(v); };
  for (const Node& n : nodes) {
    for (uint32_t k = 0; k < n.n_out; ++k) {
      const Spec& spec = values[n.out + k];
      s += (k ? ", " : "") + value(n.out + k) + ": " + name(spec.dtype) + str(spec.shape);
    }
    s += std::string(" = ") + info(n.op).name;
    if (n.op == Op::constant) {
      DType t = DType(attr(n)[0]);
      Scalar x;
      x.i = attr(n)[1];
      s += " " + (is_float(t) ? std::to_string(x.f) : is_unsigned_int(t) ? std::to_string(x.u) : std::to_string(x.i));
    } else {
      s += "(";
      for (size_t i = 0; i < n.n_in; ++i) s += (i ? ", " : "") + value(in(n)[i]);
      s += ")";
      if (n.op == Op::leaf && input[n.out] >= 0) s += " input " + std::to_string(input[n.out]);
      if (n.op == Op::scalar && scalar[n.out] >= 0) s += " number " + std::to_string(scalar[n.out]);
      if (n.op != Op::leaf && n.op != Op::scalar && n.n_attr) {
        s += " [";
        for (size_t i = 0; i < n.n_attr; ++i) s += (i ? " " : "") + std::to_string(attr(n)[i]);
        s += "]";
      }
    }
    s += "\n";
  }
  s += "results:";
  for (uint32_t v : outputs) s += " " + value(v);
  return s + "\n";
}

void Rebuilder::keep(const Graph::Node& n) {
  const uint32_t o = out_.add(n.op, g_.in(n), g_.attr(n), {g_.values.data() + n.out, n.n_out}, n.line);
  for (uint32_t* v = out_.ins.end() - n.n_in; v != out_.ins.end(); ++v) *v = map_[*v];
  for (uint32_t k = 0; k < n.n_out; ++k) map_[n.out + k] = o + k;
}

void Rebuilder::keep(size_t first, size_t end) {
  if (first == end) return;
  const Graph::Node &a = g_.nodes[first], &z = g_.nodes[end - 1];
  const uint32_t n_values = z.out + z.n_out - a.out, n_ins = z.in_at + z.n_in - a.in_at;
  const uint32_t n_attrs = z.attr_at + z.n_attr - a.attr_at;
  const uint32_t node = uint32_t(out_.nodes.size()), value = uint32_t(out_.values.size());
  const uint32_t in = uint32_t(out_.ins.size()), attr = uint32_t(out_.attrs.size());
  std::copy_n(g_.values.data() + a.out, n_values, out_.values.more(n_values));
  std::copy_n(g_.attrs.data() + a.attr_at, n_attrs, out_.attrs.more(n_attrs));
  uint32_t* maker = out_.maker.more(n_values);
  for (uint32_t k = 0; k < n_values; ++k) {
    maker[k] = g_.maker[a.out + k] - uint32_t(first) + node;
    map_[a.out + k] = value + k;
  }
  uint32_t* v = out_.ins.more(n_ins);
  for (uint32_t k = 0; k < n_ins; ++k) v[k] = map_[g_.ins[a.in_at + k]];
  Graph::Node* n = out_.nodes.more(end - first);
  std::copy_n(g_.nodes.data() + first, end - first, n);
  const Graph::Node from = a;
  for (size_t k = 0; k < end - first; ++k) {
    n[k].out += value - from.out;
    n[k].in_at += in - from.in_at;
    n[k].attr_at += attr - from.attr_at;
  }
}

Graph Rebuilder::finish() {
  for (auto list : {&Graph::inputs, &Graph::scalars, &Graph::outputs})
    for (uint32_t v : g_.*list) (out_.*list).push_back(map_[v]);
  return std::move(out_);
}

}  // namespace knet
