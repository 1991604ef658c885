// x[key] and x[key] = v with NumPy's semantics. A key is read first (nothing is recorded, masks may be computed), then
// recorded as at most: slice (integers and slices; starts are data), reshape (integers drop their axis), gather (index
// arrays), reshape (None). Assigning goes the same way back: the part with the new values in it, written into the
// whole.
#include "python/array.h"

#include <algorithm>
#include <vector>

namespace knet {

namespace {

constexpr int kMaxItems = 2 * kMaxRank + 4;

struct Item {
  enum What : uint8_t {
    Int,    // one element of an axis
    Slice,  // some elements of an axis
    New,    // None: a new axis of extent 1
    Rest,   // ...
    Array,  // an array of indices into an axis, int64
    Flag,   // True or False: a new axis of extent 1 or 0, an index array for no axis
    Mask,   // a mask over `spans` axes; becomes that many Arrays
  } what;
  PyObject* key;       // borrowed from the user's key
  ArrayObject* array;  // Array: owned by the Key
  int64_t start, length, step;
  int spans;  // axes that it takes
  int axis;
};

struct Key {
  Item items[kMaxItems];
  int n = 0;
  bool advanced = false;  // there is an Array or a Flag: integers count as index arrays when positions are compared
  bool sliced = false;
  std::vector<Ref> owned;  // index arrays made here

  Item& add(Item::What what, PyObject* key, int spans) {
    if (n == kMaxItems) throw Error(Error::Index, "[index] too many indices.");
    items[n] = Item{what, key, nullptr, 0, 1, 1, spans, 0};
    return items[n++];
  }
};

[[noreturn]] void bad_key(PyObject* k) {
  throw Error(
      Error::Index,
      std::string("[index] only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are "
                  "valid indices, not ") +
          Py_TYPE(k)->tp_name + ".");
}

[[noreturn]] void out_of_range(int64_t i, int axis, int64_t n) {
  throw Error(Error::Index, "index " + std::to_string(i) + " is out of bounds for axis " + std::to_string(axis) +
                                " with size " + std::to_string(n));
}

// An index that is neither an integer, a slice, None nor `...`: some kind of array. Masks are computed here.
void add_array(Key& key, PyObject* k) {
  const Operand kind = operand_kind(k);
  Ref own;
  bool data = false;  // a KnetArray: its values stay data, checked when they are used
  if (kind == Operand::Array) {
    own = Ref::borrow(k);
    data = true;
  } else if (kind == Operand::List) {
    if (has_knet_array(k)) {
      own = Ref(array_from(k, Py_None, Py_None));
      data = true;
    } else {
      own = Ref(array_object(read_list(k, nullptr, true)));
    }
  } else if (kind == Operand::Foreign) {
    own = Ref(array_object(read_buffer(k, "index")));
  } else {
    bad_key(k);
  }
  const Spec& s = handle_of(own).spec;
  if (s.dtype == DType::Bool) {
    realize(own);
    if (s.shape.rank == 0) {
      Item& i = key.add(Item::Flag, k, 0);
      i.length = handle_of(own).at.data()[0] ? 1 : 0;
    } else {
      Item& i = key.add(Item::Mask, k, s.shape.rank);
      i.array = reinterpret_cast<ArrayObject*>(own.get());
    }
    key.advanced = true;
  } else if (!is_int(s.dtype)) {
    throw Error(Error::Index, std::string("[index] arrays used as indices must be of integer (or boolean) type, not ") +
                                  name(s.dtype) + str(s.shape) + ". Use x.astype(\"int64\").");
  } else if (s.shape.rank == 0 && !data) {
    Item& i = key.add(Item::Int, k, 1);
    const Scalar v = load(s.dtype, handle_of(own).at.data());
    i.start = v.i;
  } else {
    Item& i = key.add(Item::Array, k, 1);
    i.array = reinterpret_cast<ArrayObject*>(own.get());
    i.start = data;
    key.advanced = true;
  }
  key.owned.push_back(std::move(own));
}

void add_item(Key& key, PyObject* k) {
  if (PyLong_CheckExact(k)) {
    key.add(Item::Int, k, 1).start = to_int(k);
  } else if (PySlice_Check(k)) {
    key.add(Item::Slice, k, 1);
  } else if (k == Py_None) {
    key.add(Item::New, k, 0);
  } else if (k == Py_Ellipsis) {
    key.add(Item::Rest, k, 0);
  } else if (PyBool_Check(k)) {
    key.add(Item::Flag, k, 0).length = k == Py_True;
    key.advanced = true;
  } else if (operand_kind(k) == Operand::Number && PyIndex_Check(k)) {
    key.add(Item::Int, k, 1).start = to_int(k);
  } else if (operand_kind(k) == Operand::None && PyIndex_Check(k)) {
    key.add(Item::Int, k, 1).start = to_int(k);
  } else {
    add_array(key, k);
  }
}

// int64 copy of host indices, in range; negative ones stay, they count from the end.
PyObject* checked_indices(const Handle& h, int axis, int64_t n) {
  HostArray a;
  a.dtype = DType::I64;
  a.shape = h.spec.shape;
  const int64_t count = a.shape.size();
  a.at.buffer = allocate(DeviceId{}, size_t(count) * 8);
  auto* to = reinterpret_cast<int64_t*>(a.at.data());
  const size_t size = itemsize(h.spec.dtype);
  for (int64_t i = 0; i < count; ++i) {
    to[i] = load(h.spec.dtype, h.at.data() + size_t(i) * size).i;
    if (to[i] < -n || to[i] >= n) out_of_range(to[i], axis, n);
  }
  return array_object(std::move(a));
}

// The positions where a mask holds, one index array for each of its axes.
void expand_mask(Key& out, const Item& m, const Shape& x, int axis) {
  const Handle& h = m.array->handle;
  const Shape& s = h.spec.shape;
  for (int i = 0; i < s.rank; ++i)
    if (s[i] != x[axis + i])
      throw Error(Error::Index, "boolean index did not match indexed array along axis " + std::to_string(axis + i) +
                                    "; size of axis is " + std::to_string(x[axis + i]) +
                                    " but size of corresponding boolean axis is " + std::to_string(s[i]));
  const char* bits = h.at.data();
  const int64_t size = s.size();
  const int64_t count = size - std::count(bits, bits + size, 0);
  int64_t* to[kMaxRank];
  for (int i = 0; i < s.rank; ++i) {
    HostArray a;
    a.dtype = DType::I64;
    a.shape = Shape{count};
    a.at.buffer = allocate(DeviceId{}, size_t(count) * 8);
    to[i] = reinterpret_cast<int64_t*>(a.at.data());
    Item& item = out.add(Item::Array, m.key, 1);
    out.owned.emplace_back(array_object(std::move(a)));
    item.array = reinterpret_cast<ArrayObject*>(out.owned.back().get());
    item.axis = axis + i;
  }
  int64_t at[kMaxRank] = {};
  for (int64_t k = 0, found = 0; k < size; ++k) {
    if (bits[k]) {
      for (int i = 0; i < s.rank; ++i) to[i][found] = at[i];
      ++found;
    }
    for (int i = s.rank - 1; i >= 0 && ++at[i] == s[i]; --i) at[i] = 0;
  }
}

// The key with one item per axis: `...` filled in, integers and slices normalised, indices checked.
Key read_key(const Shape& x, PyObject* k) {
  Key raw;
  if (PyTuple_CheckExact(k) || PyTuple_Check(k)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(k); ++i) add_item(raw, PyTuple_GET_ITEM(k, i));
  } else {
    add_item(raw, k);
  }
  int axes = 0, rests = 0;
  for (int i = 0; i < raw.n; ++i) {
    axes += raw.items[i].spans;
    rests += raw.items[i].what == Item::Rest;
  }
  if (rests > 1) throw Error(Error::Index, "an index can only have a single ellipsis ('...')");
  if (axes > x.rank)
    throw Error(Error::Index, "too many indices for array: array is " + std::to_string(x.rank) + "-dimensional, but " +
                                  std::to_string(axes) + " were indexed");
  Key key;
  key.owned = std::move(raw.owned);
  key.advanced = raw.advanced;
  int axis = 0;
  auto whole = [&](int count) {
    for (int i = 0; i < count; ++i, ++axis) {
      Item& item = key.add(Item::Slice, nullptr, 1);
      item.axis = axis;
      item.length = x[axis];
    }
  };
  for (int i = 0; i < raw.n; ++i) {
    const Item& r = raw.items[i];
    if (r.what == Item::Rest) {
      if (axes == x.rank) key.add(Item::Rest, r.key, 0);  // it takes nothing, and still keeps index arrays apart
      whole(x.rank - axes);
      continue;
    }
    if (r.what == Item::Mask) {
      expand_mask(key, r, x, axis);
      axis += r.spans;
      continue;
    }
    Item& item = key.items[key.n];
    key.add(r.what, r.key, r.spans) = r;
    item.axis = axis;
    const int64_t n = r.spans ? x[axis] : 0;
    axis += r.spans;
    if (r.what == Item::Int) {
      if (r.start < -n || r.start >= n) out_of_range(r.start, item.axis, n);
      if (r.start < 0) item.start += n;
      key.sliced = true;
    } else if (r.what == Item::Slice) {
      Py_ssize_t start, stop, step;
      if (PySlice_Unpack(r.key, &start, &stop, &step) < 0) throw PyError{};
      item.length = PySlice_AdjustIndices(Py_ssize_t(n), &start, &stop, step);
      // Where nothing or one element is taken the step means nothing: fewer structures.
      item.start = item.length ? start : 0;
      item.step = item.length > 1 ? step : 1;
      key.sliced |= !(item.length == n && item.step == 1);
    } else if (r.what == Item::Array && !r.start) {
      key.owned.emplace_back(checked_indices(r.array->handle, item.axis, n));
      item.array = reinterpret_cast<ArrayObject*>(key.owned.back().get());
    }
  }
  if (!rests) whole(x.rank - axes);
  return key;
}

// ---- recording

struct Recorder {
  Trace& t;
  Key& key;
  const Shape x;
  Shape region;    // what the slices take, integers as extent 1
  Shape kept;      // region without the axes of integers
  Shape s;         // the common shape of index arrays
  Shape gathered;  // kept with the indexed axes replaced by s, at `at`
  Shape result;    // gathered, with new axes
  int at = 0;
  bool arrays = false;  // index arrays, not only flags

  int64_t attrs[3 * (kMaxRank + 1)];
  size_t n_attrs = 0;
  uint32_t in[2 + kMaxRank];
  size_t n_in = 0;

  Recorder(Trace& trace, Key& k, const Shape& shape) : t(trace), key(k), x(shape) { shapes(); }

  void broadcast_with(const Shape& o) {
    Shape wide = o.rank > s.rank ? o : s;
    const Shape& other = o.rank > s.rank ? s : o;
    const int shift = wide.rank - other.rank;
    for (int i = 0; i < other.rank; ++i) {
      int64_t& d = wide[shift + i];
      if (d == other[i] || other[i] == 1) continue;
      if (d != 1)
        throw Error(Error::Index, "shape mismatch: indexing arrays could not be broadcast together with shapes " +
                                      str(s) + " " + str(o));
      d = other[i];
    }
    s = wide;
  }

  void shapes() {
    region.rank = x.rank;
    int first = -1, last = -1;
    bool together = true;
    Shape slices;  // extents that stay where they are, new axes apart
    for (int i = 0; i < key.n; ++i) {
      const Item& item = key.items[i];
      if (item.spans) region[item.axis] = item.what == Item::Array ? x[item.axis] : item.length;
      if (key.advanced && (item.what == Item::Int || item.what == Item::Array || item.what == Item::Flag)) {
        if (last >= 0 && last != i - 1) together = false;
        if (first < 0) first = i;
        last = i;
        if (item.what == Item::Array) arrays = true, broadcast_with(item.array->handle.spec.shape);
        if (item.what == Item::Flag) broadcast_with(Shape{item.length});
      }
      if (item.spans && item.what != Item::Int) kept.push(region[item.axis]);
    }
    if (!key.advanced) {
      gathered = kept;
      for (int i = 0; i < key.n; ++i) {
        if (key.items[i].what == Item::New) result.push(1);
        if (key.items[i].what == Item::Slice) result.push(key.items[i].length);
      }
      return;
    }
    auto put = [&](Shape& to) {
      for (int64_t d : s.dims()) to.push(d);
    };
    if (!together) put(result), put(gathered);
    for (int i = 0; i < key.n; ++i) {
      const Item& item = key.items[i];
      if (together && i == first) {
        at = gathered.rank;
        put(result);
        put(gathered);
      }
      if (item.what == Item::New) result.push(1);
      if (item.what == Item::Slice) {
        result.push(item.length);
        gathered.push(item.length);
      }
    }
  }

  void ints(std::span<const int64_t> v) {
    attrs[n_attrs++] = int64_t(v.size());
    for (int64_t i : v) attrs[n_attrs++] = i;
  }

  // Inputs and attributes of slice (lengths) and slice_update.
  void slices(bool lengths) {
    const uint32_t of = in[0];
    int64_t axes[kMaxRank], length[kMaxRank], steps[kMaxRank];
    size_t n = 0;
    for (int i = 0; i < key.n; ++i) {
      const Item& item = key.items[i];
      if (item.what == Item::Int || (item.what == Item::Slice && !(item.length == x[item.axis] && item.step == 1))) {
        axes[n] = item.axis;
        length[n] = item.length;
        steps[n++] = item.step;
        in[n_in++] = t.start(item.start, of);
      }
    }
    ints({axes, n});
    if (lengths) ints({length, n});
    ints({steps, n});
  }

  uint32_t record(Op op) {
    const uint32_t v = t.append(op, {in, n_in}, {attrs, n_attrs});
    n_in = n_attrs = 0;
    return v;
  }

  uint32_t shaped(uint32_t v, const Shape& to) { return t.spec(v).shape == to ? v : reshape(t, v, to); }

  // The part that slices and integers take, without the axes of integers.
  uint32_t sliced(uint32_t v) {
    if (key.sliced) {
      in[n_in++] = v;
      slices(true);
      v = record(Op::slice);
    }
    return shaped(v, kept);
  }

  // Inputs and attributes of gather and its adjoints, after the first `n_in` inputs.
  void indices() {
    int64_t axes[kMaxRank];
    size_t n = 0;
    int dropped = 0;
    for (int i = 0; i < key.n; ++i) {
      const Item& item = key.items[i];
      if (item.what == Item::Int) ++dropped;
      if (item.what != Item::Array) continue;
      axes[n++] = item.axis - dropped;
      in[n_in++] = broadcast_to(t, t.cast(t.use(item.array->handle), DType::I64), s);
    }
    ints({axes, n});
    attrs[n_attrs++] = at;
  }
};

// A mask over the leading axes, alone, and one value for all its elements: then nothing depends on how many there are.
bool assign_where(PyObject* x, PyObject* k, PyObject* v) {
  if (PyTuple_Check(k) || PyBool_Check(k)) return false;
  const Operand kind = operand_kind(k);
  if (kind != Operand::Array && kind != Operand::Foreign) return false;
  const Operand value_kind = operand_kind(v);
  if (value_kind != Operand::Number && !(value_kind == Operand::Array && handle_of(v).spec.shape.rank == 0))
    return false;
  if (kind == Operand::Array && handle_of(k).spec.dtype != DType::Bool) return false;
  Ref own = kind == Operand::Array ? Ref::borrow(k) : Ref(array_object(read_buffer(k, "index")));
  const Spec m = handle_of(own).spec;
  Handle& h = handle_of(x);
  const Shape xs = h.spec.shape;
  if (m.dtype != DType::Bool || m.shape.rank == 0 || m.shape.rank > xs.rank) return false;
  for (int i = 0; i < m.shape.rank; ++i)
    if (m.shape[i] != xs[i]) return false;
  Trace& t = Trace::current();
  const DType d = h.spec.dtype;
  Shape wide = m.shape;
  while (wide.rank < xs.rank) wide.push(1);
  uint32_t mask = t.use(handle_of(own));
  if (wide.rank != m.shape.rank) mask = reshape(t, mask, wide);
  const uint32_t in[3] = {mask, t.cast(value_of(t, v, &d), d), t.use(h)};
  t.give(t.append(Op::where, in), h);
  return true;
}

}  // namespace

PyObject* get_index(PyObject* x, PyObject* k) {
  Handle& h = handle_of(x);
  const Shape shape = h.spec.shape;
  if (PyLong_CheckExact(k) && shape.rank) {  // nearly always, and there is nothing to read; what is wrong is said below
    const int64_t i = to_int(k), n = shape[0];
    if (i >= -n && i < n) return get_row(x, Py_ssize_t(i < 0 ? i + n : i));
  }
  Key key = read_key(shape, k);
  Trace& t = Trace::current();
  Recorder r(t, key, shape);
  const uint32_t whole = t.use(h);
  uint32_t v = r.sliced(whole);
  if (r.arrays) {
    r.in[r.n_in++] = v;
    r.indices();
    v = r.record(Op::gather);
  } else if (key.advanced && r.s.size() == 0) {
    // Only flags, one of them False: an axis of nothing.
    Shape one = r.gathered;
    one[r.at] = 1;
    v = r.shaped(v, one);
    const uint32_t in[2] = {v, t.start(0, v)};
    const int64_t attrs[6] = {1, r.at, 1, 0, 1, 1};
    v = t.append(Op::slice, in, attrs);
  }
  v = r.shaped(v, r.result);
  return v == whole ? share(x) : wrap(t, v);
}

PyObject* get_row(PyObject* x, Py_ssize_t i) {
  Handle& h = handle_of(x);
  const Shape s = h.spec.shape;
  if (!s.rank) throw Error(Error::Index, "too many indices for array: array is 0-dimensional, but 1 were indexed");
  if (i < 0 || i >= s[0]) out_of_range(i, 0, s[0]);
  Trace& t = Trace::current();
  const uint32_t whole = t.use(h), in[2] = {whole, t.start(i, whole)};
  const int64_t attrs[6] = {1, 0, 1, 1, 1, 1};
  return wrap(t, reshape(t, t.append(Op::slice, in, attrs), Shape(s.dims().subspan(1))));
}

int set_index(PyObject* x, PyObject* k, PyObject* value) {
  if (assign_where(x, k, value)) return 0;
  Handle& h = handle_of(x);
  const Shape shape = h.spec.shape;
  const DType d = h.spec.dtype;
  Key key = read_key(shape, k);
  Trace& t = Trace::current();
  Recorder r(t, key, shape);
  const uint32_t whole = t.use(h);
  uint32_t v = value_of(t, value, &d);
  if (t.tracked(v) && !is_float(d))
    throw Error(Error::Type, std::string("[index] a value that depends on a parameter would become a constant in ") +
                                 name(d) + str(shape) + ". Use x.astype(\"float32\") before.");
  v = t.cast(v, d);

  // NumPy broadcasts the value to the indexed part; leading ones too many do not matter.
  Shape vs = t.spec(v).shape;
  bool fits = true;
  const int extra = vs.rank - r.result.rank;
  for (int i = 0; i < extra; ++i) fits &= vs[i] == 1;
  if (fits && extra > 0) v = reshape(t, v, vs = Shape(vs.dims().subspan(size_t(extra))));
  for (int i = 0; fits && i < vs.rank; ++i) fits = vs[i] == 1 || vs[i] == r.result[r.result.rank - vs.rank + i];
  if (!fits)
    throw Error(Error::Value, "[index] could not broadcast a value of shape " + str(vs) +
                                  " into the indexed part, of shape " + str(r.result) + ". Use reshape.");
  if (r.result.size() == 0) return 0;
  v = broadcast_to(t, v, r.result);

  if (r.arrays) {
    v = r.shaped(v, r.gathered);
    r.in[0] = r.sliced(whole);
    r.in[1] = v;
    r.n_in = 2;
    r.indices();
    v = r.record(Op::scatter_set);
  }
  v = r.shaped(v, r.region);
  if (key.sliced) {
    r.in[r.n_in++] = whole;
    r.in[r.n_in++] = v;
    r.slices(false);
    v = r.record(Op::slice_update);
  }
  if (t.spec(v).weak) {  // a number that replaces a whole 0-d array takes its dtype for good
    const int64_t attr = int64_t(d);
    v = t.append(Op::cast, {&v, 1}, {&attr, 1});
  }
  t.give(v, h);
  return 0;
}

}  // namespace knet
