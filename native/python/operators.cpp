// The operators of KnetArray: every slot records one elementwise operation or a product, with NumPy's rules for types.
// Python numbers take the dtype of the array that they meet; an in-place form gives its left array the new value.
#include "python/array.h"

namespace knet {

namespace {

// Values of the operands of a binary slot, at least one of which is a KnetArray. False: not an operand that we know.
bool operands(Trace& t, PyObject* a, PyObject* b, bool compare, uint32_t v[2], bool floats = false) {
  if (is_array(a) && is_array(b)) {
    v[0] = t.use(handle_of(a));
    v[1] = t.use(handle_of(b));
    return true;
  }
  const int known = is_array(a) ? 0 : 1;
  PyObject* array = known ? b : a;
  PyObject* other = known ? a : b;
  if (operand_kind(other) == Operand::None) return false;
  const Spec& s = handle_of(array).spec;
  v[known] = t.use(handle_of(array));
  // Also beside a number of ours, which stays weak: a cast between the two would make it strong.
  const DType like = s.dtype;
  if (floats && !s.weak && as_float_number(t, other, like, v[1 - known])) return true;
  v[1 - known] = value_of(t, other, s.weak && !is_float(like) ? nullptr : &like, compare);
  return true;
}

PyObject* binary_op(Op op, PyObject* a, PyObject* b, bool compare) {
  Trace& t = Trace::current();
  uint32_t v[2];
  if (!operands(t, a, b, compare, v, op == Op::divide)) Py_RETURN_NOTIMPLEMENTED;
  return wrap(t, t.elementwise(op, v));
}

template <Op op>
PyObject* binary(PyObject* a, PyObject* b) noexcept {
  return guarded([&] { return binary_op(op, a, b, false); });
}

template <Op op>
PyObject* unary(PyObject* a) noexcept {
  return guarded([&] {
    Trace& t = Trace::current();
    const uint32_t v = t.use(handle_of(a));
    return wrap(t, t.elementwise(op, {&v, 1}));
  });
}

PyObject* positive(PyObject* a) noexcept {
  return guarded([&] { return share(a); });
}

PyObject* divmod(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    Ref q(wrap(t, t.elementwise(Op::floor_divide, v)));
    Ref r(wrap(t, t.elementwise(Op::remainder, v)));
    return PyTuple_Pack(2, q.get(), r.get());
  });
}

// x ** n for a number that is written in the program and has a cheaper form. Structure, unlike other exponents: they
// are few. Returns false if there is none.
bool literal_power(Trace& t, uint32_t x, PyObject* exponent, uint32_t& y) {
  const DType d = t.spec(x).dtype;
  double n;
  if (PyLong_CheckExact(exponent)) {
    int overflow;
    const long i = PyLong_AsLongAndOverflow(exponent, &overflow);
    if (is_int(d) && (i < 0 || overflow < 0))
      throw Error(Error::Value, std::string("[power] integers to negative powers are not integers: ") + name(d) +
                                    str(t.spec(x).shape) + ". Use x.astype(\"float64\") ** n.");
    n = double(i);
  } else if (PyFloat_CheckExact(exponent) && is_float(d)) {
    n = PyFloat_AS_DOUBLE(exponent);
  } else {
    return false;
  }
  if (d == DType::Bool) return false;
  if (n == 2 || n == 3) {
    y = t.append(Op::square, {&x, 1});
    if (n == 3) {
      const uint32_t v[2] = {y, x};
      y = t.append(Op::multiply, v);
    }
    return true;
  }
  if (n == 1) return y = x, true;
  if (n == 0.5) return y = t.append(Op::sqrt, {&x, 1}), true;
  if (n == -1) return y = t.append(Op::reciprocal, {&x, 1}), true;
  return false;
}

bool power_value(Trace& t, PyObject* a, PyObject* b, PyObject* mod, uint32_t& y) {
  if (mod != Py_None) throw Error(Error::Type, "[power] pow with a modulus is not defined for arrays. Use x ** y % m.");
  if (is_array(a) && !is_array(b)) {
    const uint32_t x = t.use(handle_of(a));
    if (literal_power(t, x, b, y)) return true;
  }
  uint32_t v[2];
  if (!operands(t, a, b, false, v)) return false;
  y = t.elementwise(Op::power, v);
  return true;
}

PyObject* power(PyObject* a, PyObject* b, PyObject* mod) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t y;
    if (!power_value(t, a, b, mod, y)) Py_RETURN_NOTIMPLEMENTED;
    return wrap(t, y);
  });
}

// What cannot be multiplied is refused before anything is cast.
uint32_t matmul_value(Trace& t, uint32_t a, uint32_t b) {
  const Shape sa = t.spec(a).shape, sb = t.spec(b).shape;
  if (sa.rank == 0 || sb.rank == 0)
    throw Error(Error::Value,
                "[matmul] a number has no dimension to sum over: " + str(sa) + " @ " + str(sb) + ". Use *.");
  if (sa[sa.rank - 1] != sb[sb.rank == 1 ? 0 : sb.rank - 2])
    throw Error(
        Error::Value,
        "[matmul] inner dimensions differ: " + str(sa) + " @ " + str(sb) +
            ". The last of the first must equal the last but one of the second: transpose or reshape one of them.");
  if (t.spec(a).dtype != t.spec(b).dtype) {
    const Spec x = t.spec(a), y = t.spec(b);
    const DType d = x.weak && !y.weak ? y.dtype : y.weak && !x.weak ? x.dtype : promote(x.dtype, y.dtype);
    a = t.cast(a, d);
    b = t.cast(b, d);
  }
  const uint32_t v[2] = {a, b};
  return t.append(Op::matmul, v);
}

PyObject* matmul(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return wrap(t, matmul_value(t, v[0], v[1]));
  });
}

// May a result of type `from` be written into an array of type `to`? NumPy's casting rule "same_kind".
bool same_kind(DType from, DType to) {
  auto kind = [](DType t) {
    return t == DType::Bool ? 0 : is_unsigned_int(t) ? 1 : is_signed_int(t) ? 2 : is_float(t) ? 3 : 4;
  };
  return kind(from) <= kind(to);
}

// a += b: this handle gets the new value, of its own dtype; no other handle changes.
PyObject* assign(Trace& t, PyObject* a, uint32_t v, const char* sign) {
  Handle& h = handle_of(a);
  const Spec& s = t.spec(v);
  if (!(s.shape == h.spec.shape))
    throw Error(Error::Value, std::string("[") + sign + "] the result has shape " + str(s.shape) +
                                  ", which does not fit " + str(h.spec.shape) + ". Use a = a " +
                                  std::string(sign, std::strlen(sign) - 1) + " b.");
  if (s.dtype != h.spec.dtype && !h.spec.weak) {
    if (!same_kind(s.dtype, h.spec.dtype))
      throw Error(Error::Type, std::string("[") + sign + "] the result is " + name(s.dtype) + ", which does not fit " +
                                   name(h.spec.dtype) + str(h.spec.shape) + ". Use a = a " +
                                   std::string(sign, std::strlen(sign) - 1) + " b, or a.astype(\"" + name(s.dtype) +
                                   "\") before.");
    v = t.cast(v, h.spec.dtype);
  }
  t.give(v, h);
  return Py_NewRef(a);
}

constexpr const char* sign_of(Op op) {
  switch (op) {
    case Op::add: return "+=";
    case Op::subtract: return "-=";
    case Op::multiply: return "*=";
    case Op::divide: return "/=";
    case Op::floor_divide: return "//=";
    case Op::remainder: return "%=";
    case Op::left_shift: return "<<=";
    case Op::right_shift: return ">>=";
    case Op::bitwise_and: return "&=";
    case Op::bitwise_or: return "|=";
    default: return "^=";
  }
}

template <Op op>
PyObject* in_place(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, t.elementwise(op, v), sign_of(op));
  });
}

PyObject* in_place_power(PyObject* a, PyObject* b, PyObject* mod) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t y;
    if (!power_value(t, a, b, mod, y)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, y, "**=");
  });
}

PyObject* in_place_matmul(PyObject* a, PyObject* b) noexcept {
  return guarded([&]() -> PyObject* {
    Trace& t = Trace::current();
    uint32_t v[2];
    if (!operands(t, a, b, false, v)) Py_RETURN_NOTIMPLEMENTED;
    return assign(t, a, matmul_value(t, v[0], v[1]), "@=");
  });
}

PyObject* compare(PyObject* a, PyObject* b, int how) noexcept {
  static constexpr Op ops[] = {Op::less, Op::less_equal, Op::equal, Op::not_equal, Op::greater, Op::greater_equal};
  return guarded([&]() -> PyObject* {
    if ((how == Py_EQ || how == Py_NE) && operand_kind(b) == Operand::List) {
      // A ragged or foreign list is merely different.
      try {
        return binary_op(ops[how], a, b, true);
      } catch (...) {
        PyErr_Clear();
        Py_RETURN_NOTIMPLEMENTED;
      }
    }
    return binary_op(ops[how], a, b, true);
  });
}

template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}

}  // namespace

PyObject* equal(PyObject* a, PyObject* b) { return binary_op(Op::equal, a, b, true); }

PyType_Slot kOperatorSlots[] = {slot(Py_tp_richcompare, compare),
                                slot(Py_nb_add, binary<Op::add>),
                                slot(Py_nb_subtract, binary<Op::subtract>),
                                slot(Py_nb_multiply, binary<Op::multiply>),
                                slot(Py_nb_true_divide, binary<Op::divide>),
                                slot(Py_nb_floor_divide, binary<Op::floor_divide>),
                                slot(Py_nb_remainder, binary<Op::remainder>),
                                slot(Py_nb_divmod, divmod),
                                slot(Py_nb_power, power),
                                slot(Py_nb_matrix_multiply, matmul),
                                slot(Py_nb_lshift, binary<Op::left_shift>),
                                slot(Py_nb_rshift, binary<Op::right_shift>),
                                slot(Py_nb_and, binary<Op::bitwise_and>),
                                slot(Py_nb_or, binary<Op::bitwise_or>),
                                slot(Py_nb_xor, binary<Op::bitwise_xor>),
                                slot(Py_nb_inplace_add, in_place<Op::add>),
                                slot(Py_nb_inplace_subtract, in_place<Op::subtract>),
                                slot(Py_nb_inplace_multiply, in_place<Op::multiply>),
                                slot(Py_nb_inplace_true_divide, in_place<Op::divide>),
                                slot(Py_nb_inplace_floor_divide, in_place<Op::floor_divide>),
                                slot(Py_nb_inplace_remainder, in_place<Op::remainder>),
                                slot(Py_nb_inplace_power, in_place_power),
                                slot(Py_nb_inplace_matrix_multiply, in_place_matmul),
                                slot(Py_nb_inplace_lshift, in_place<Op::left_shift>),
                                slot(Py_nb_inplace_rshift, in_place<Op::right_shift>),
                                slot(Py_nb_inplace_and, in_place<Op::bitwise_and>),
                                slot(Py_nb_inplace_or, in_place<Op::bitwise_or>),
                                slot(Py_nb_inplace_xor, in_place<Op::bitwise_xor>),
                                slot(Py_nb_negative, unary<Op::negative>),
                                slot(Py_nb_positive, positive),
                                slot(Py_nb_absolute, unary<Op::absolute>),
                                slot(Py_nb_invert, unary<Op::invert>),
                                {}};

}  // namespace knet
