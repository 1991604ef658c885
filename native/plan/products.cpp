#include "plan/products.h"

#include <algorithm>
#include <unordered_map>

namespace knet {

namespace {

// Start and length of a slice of rank-2 x along one axis, by steps of 1 from a fixed place.
struct Part {
  uint32_t matrix;  // of which it is a part
  int64_t start, length;
  bool operator==(const Part&) const = default;
};
struct PartHash {
  size_t operator()(const Part& p) const {
    return size_t((p.matrix * 0x9e3779b97f4a7c15ull ^ uint64_t(p.start)) * 0xd6e8feb86659fd93ull ^ uint64_t(p.length));
  }
};

// A concatenation along columns.
bool joins_columns(const Graph& g, const Graph::Node& n) {
  return n.op == Op::concatenate && g.values[n.out].shape.rank == 2 && g.attr(n)[0] == 1;
}

class Splitter : Rebuilder {
 public:
  using Rebuilder::Rebuilder;

  Graph run() {
    survey();
    if (!choose()) return std::move(g_);
    for (const auto& n : g_.nodes) rewrite(n);
    for (uint32_t v : g_.outputs) whole(v);
    return prune(finish());
  }

 private:
  std::vector<std::vector<uint32_t>> users_;         // of each value of g_: nodes, kNone for a result of the plan
  std::unordered_map<uint32_t, std::vector<uint32_t>> by_matrix_;  // right-hand matrix -> products
  std::vector<bool> split_;                          // node: a product (or the concatenation in it) to be split
  std::unordered_map<uint32_t, std::vector<uint32_t>> parts_;  // value of g_ -> what it is the concatenation of
  std::unordered_map<Part, uint32_t, PartHash> cut_; // parts of matrices of out_

  void survey() {
    users_.resize(g_.values.size());
    for (uint32_t i = 0; i < g_.nodes.size(); ++i) {
      for (uint32_t v : g_.in(g_.nodes[i])) users_[v].push_back(i);
      if (is_plain_product(g_, g_.nodes[i])) by_matrix_[g_.in(g_.nodes[i])[1]].push_back(i);
    }
    for (uint32_t v : g_.outputs) users_[v].push_back(kNone);
    split_.assign(g_.nodes.size(), false);
  }

  bool joins_columns(const Graph::Node& n) const { return knet::joins_columns(g_, n); }
  // Is node i a slice of columns, from a fixed one on?
  bool fixed_columns(uint32_t i, int64_t& start, int64_t& length) const {
    if (i == kNone) return false;
    const auto& n = g_.nodes[i];
    const auto a = g_.attr(n);
    if (n.op != Op::slice || a[0] != 1 || a[1] != 1 || a[5] != 1 || g_.made(g_.in(n)[1]).op != Op::constant) return false;
    start = g_.attr(g_.made(g_.in(n)[1]))[1];
    length = a[3];
    return true;
  }

  bool choose() {
    bool any = false;
    for (const auto& [matrix, products] : by_matrix_) {
      if (products.size() < 2 * kManyProducts) continue;
      any |= choose_joined(products) | choose_sliced(products);
    }
    return any;
  }

  // Products of concatenations of which some parts, and not others, depend on earlier products with the same matrix.
  bool choose_joined(const std::vector<uint32_t>& products) {
    std::vector<uint32_t> of;
    for (uint32_t p : products)
      if (joins_columns(g_.made(g_.in(g_.nodes[p])[0]))) of.push_back(p);
    if (of.size() < 2 * kManyProducts) return false;
    const auto first = g_.in(g_.made(g_.in(g_.nodes[of[0]])[0]));
    const size_t n_parts = first.size();
    std::vector<bool> depends(g_.values.size());
    size_t next = 0;
    for (uint32_t i = products[0]; i < g_.nodes.size(); ++i) {
      const auto& n = g_.nodes[i];
      bool yes = next < products.size() && products[next] == i;
      next += yes;
      for (uint32_t v : g_.in(n)) yes = yes || depends[v];
      for (uint32_t k = 0; yes && k < n.n_out; ++k) depends[n.out + k] = true;
    }
    std::vector<bool> late(n_parts);
    for (uint32_t p : of) {
      const auto parts = g_.in(g_.made(g_.in(g_.nodes[p])[0]));
      if (parts.size() != n_parts) return false;
      for (size_t k = 0; k < n_parts; ++k) {
        if (g_.values[parts[k]].shape[1] != g_.values[first[k]].shape[1]) return false;
        if (depends[parts[k]]) late[k] = true;
      }
    }
    if (std::ranges::count(late, true) % ptrdiff_t(n_parts) == 0) return false;
    for (uint32_t p : of) split_[p] = split_[g_.maker[g_.in(g_.nodes[p])[0]]] = true;
    return true;
  }

  // Products that are only sliced, where some slices lead to later products with the same matrix and others do not.
  bool choose_sliced(const std::vector<uint32_t>& products) {
    std::vector<uint32_t> of;
    int64_t start, length;
    for (uint32_t p : products) {
      const auto& users = users_[g_.nodes[p].out];
      bool all = !users.empty();
      for (uint32_t u : users) all = all && fixed_columns(u, start, length);
      if (all) of.push_back(p);
    }
    if (of.size() < 2 * kManyProducts) return false;
    std::vector<bool> leads(g_.values.size());
    std::vector<bool> is_product(g_.nodes.size());
    for (uint32_t p : products) is_product[p] = true;
    for (size_t i = g_.nodes.size(); i-- > 0;) {
      const auto& n = g_.nodes[i];
      bool yes = is_product[i];
      for (uint32_t k = 0; !yes && k < n.n_out; ++k) yes = leads[n.out + k];
      if (yes)
        for (uint32_t v : g_.in(n)) leads[v] = true;
    }
    bool some = false, others = false;
    for (uint32_t p : of)
      for (uint32_t u : users_[g_.nodes[p].out]) (leads[g_.nodes[u].out] ? some : others) = true;
    if (!some || !others) return false;
    for (uint32_t p : of) split_[p] = true;
    return true;
  }

  // ---- the new graph

  uint32_t add(Op op, std::initializer_list<uint32_t> in, std::initializer_list<int64_t> attrs, int32_t line) {
    return out_.add(op, std::vector<uint32_t>(in), std::vector<int64_t>(attrs), line);
  }

  // The value of out_ for a value of g_; a concatenation is made only here, where somebody wants all of it.
  uint32_t whole(uint32_t v) {
    if (map_[v] == kNone) map_[v] = out_.add(Op::concatenate, parts_.at(v), std::vector<int64_t>{0});
    return map_[v];
  }

  uint32_t cut(uint32_t matrix, int axis, int64_t start, int64_t length) {
    auto [it, fresh] = cut_.try_emplace({matrix << 1 | uint32_t(axis), start, length}, kNone);
    if (fresh) {
      const uint32_t from = out_.constant({.i = start}, DType::I64);
      it->second = add(Op::slice, {matrix, from}, {1, axis, 1, length, 1, 1}, -1);
    }
    return it->second;
  }

  void rewrite(const Graph::Node& n) {
    const auto in = g_.in(n);
    if (is_plain_product(g_, n)) {
      if (split_[g_.maker[n.out]] && split_joined(n)) return;
      if (split_[g_.maker[n.out]] && !users_[n.out].empty() && !joins_columns(g_.made(in[0]))) return;  // by its slices
      if (split_rows(n)) return;
    }
    int64_t start, length;
    if (n.op == Op::slice && split_[g_.maker[in[0]]] && g_.made(in[0]).op == Op::matmul && map_[in[0]] == kNone &&
        fixed_columns(g_.maker[n.out], start, length)) {
      const auto product = g_.in(g_.made(in[0]));
      const uint32_t a = whole(product[0]);
      map_[n.out] = add(Op::matmul, {a, cut(whole(product[1]), 1, start, length)}, {}, n.line);
      return;
    }
    if (n.op == Op::add && add_parts(n)) return;
    for (uint32_t v : in) whole(v);
    keep(n);
  }

  // [x, h] @ w = x @ w[:n] + h @ w[n:]
  bool split_joined(const Graph::Node& n) {
    const auto& joined = g_.made(g_.in(n)[0]);
    if (!joins_columns(joined)) return false;
    const uint32_t w = whole(g_.in(n)[1]);
    uint32_t sum = kNone;
    int64_t row = 0;
    for (uint32_t x : g_.in(joined)) {
      const int64_t k = g_.values[x].shape[1];
      const uint32_t y = add(Op::matmul, {whole(x), cut(w, 0, row, k)}, {}, n.line);
      sum = sum == kNone ? y : add(Op::add, {sum, y}, {}, n.line);
      row += k;
    }
    map_[n.out] = sum;
    return true;
  }

  // [x, h]^T @ d is x^T @ d above h^T @ d.
  bool split_rows(const Graph::Node& n) {
    const auto& turned = g_.made(g_.in(n)[0]);
    if (turned.op != Op::transpose || g_.attr(turned)[1] != 1) return false;
    const uint32_t joined = g_.in(turned)[0];
    if (!split_[g_.maker[joined]] || !joins_columns(g_.made(joined))) return false;
    const uint32_t d = whole(g_.in(n)[1]);
    std::vector<uint32_t> parts;
    for (uint32_t x : g_.in(g_.made(joined))) {
      const uint32_t t = add(Op::transpose, {whole(x)}, {2, 1, 0}, n.line);
      parts.push_back(add(Op::matmul, {t, d}, {}, n.line));
    }
    parts_[n.out] = std::move(parts);
    return true;
  }

  // A sum of such is made part by part.
  bool add_parts(const Graph::Node& n) {
    const auto a = parts_.find(g_.in(n)[0]), b = parts_.find(g_.in(n)[1]);
    if (a == parts_.end() || b == parts_.end() || a->second.size() != b->second.size()) return false;
    std::vector<uint32_t> sums;
    for (size_t k = 0; k < a->second.size(); ++k) {
      const uint32_t x = a->second[k], y = b->second[k];
      if (!(out_.values[x].shape == out_.values[y].shape)) return false;
      sums.push_back(add(Op::add, {x, y}, {}, n.line));
    }
    parts_[n.out] = std::move(sums);
    return true;
  }
};

}  // namespace

Graph split_products(Graph g) {
  // Most plans have no matrix in so many products, or neither joined nor sliced ones: that is all there is to see.
  List<uint32_t> count(g.values.size());
  bool many = false, parts = false;
  for (const auto& n : g.nodes) {
    if (is_plain_product(g, n)) many |= ++count[g.in(n)[1]] >= 2 * kManyProducts;
    parts |= joins_columns(g, n) || (n.op == Op::slice && g.made(g.in(n)[0]).op == Op::matmul);
  }
  if (!many || !parts) return g;
  return Splitter(std::move(g)).run();
}

bool accumulate_products(Graph& g) {
  if (std::ranges::none_of(g.nodes, [](const Graph::Node& n) { return n.op == Op::matmul; })) return false;
  bool any = false;
  List<uint32_t> uses(g.values.size());
  for (const auto& n : g.nodes)
    for (uint32_t v : g.in(n)) ++uses[v];
  for (uint32_t v : g.outputs) uses[v] += 2;
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    auto& n = g.nodes[i];
    if (n.op != Op::add) continue;
    uint32_t a = g.in(n)[0], b = g.in(n)[1];
    for (int side = 0; side < 2; ++side, std::swap(a, b)) {
      const auto& product = g.made(b);
      if (product.op != Op::matmul || product.n_in != 2 || uses[b] != 1 || !is_float(g.values[b].dtype)) continue;
      if (!(g.values[a].shape == g.values[b].shape) || g.made(a).op == Op::broadcast_to) continue;
      // The addend must be something that a product may write over; a view or an input would have to be copied first.
      Kind k = info(g.made(a).op).kind;
      if (k == Kind::Movement || k == Kind::Meta || uses[a] != 1) continue;
      uint32_t in[] = {g.in(product)[0], g.in(product)[1], a};
      n.op = Op::matmul;
      n.in_at = uint32_t(g.ins.size());
      n.n_in = 3;
      g.ins.insert(g.ins.end(), in, in + 3);
      any = true;
      break;
    }
  }
  return any;
}

}  // namespace knet
