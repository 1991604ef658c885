#include "types.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace knet {

namespace {

constexpr const char* kNames[kDTypes] = {"bool",   "int8",    "int16",    "int32",   "int64",   "uint8",     "uint16",    "uint32",
                                         "uint64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128"};

constexpr bool is_complex(DType t) { return t >= DType::C64; }
constexpr bool is_integer(DType t) { return t >= DType::I8 && t <= DType::U64; }
constexpr bool is_signed(DType t) { return t >= DType::I8 && t <= DType::I64; }
constexpr int bytes_of(DType t) { return kItemsize[int(t)]; }

// The least float type that holds every value of an integer or boolean type (64 bits: float64 by convention).
constexpr DType float_holding(DType t) {
  return t == DType::Bool || bytes_of(t) == 1 ? DType::F16 : bytes_of(t) == 2 ? DType::F32 : DType::F64;
}

constexpr DType promote_floats(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::F64 || b == DType::F64) return DType::F64;
  return DType::F32;  // float16 with bfloat16: neither holds the other
}

constexpr DType promote_integers(DType a, DType b) {
  if (is_signed(a) == is_signed(b)) return bytes_of(a) >= bytes_of(b) ? a : b;
  const DType s = is_signed(a) ? a : b, u = is_signed(a) ? b : a;
  if (bytes_of(u) < bytes_of(s)) return s;
  if (u == DType::U64) return DType::F64;
  return DType(int(DType::I8) + (u == DType::U8 ? 1 : u == DType::U16 ? 2 : 3));
}

constexpr DType promote_types(DType a, DType b) {
  if (a == b || b == DType::Bool) return a;
  if (a == DType::Bool) return b;
  if (is_complex(a) || is_complex(b)) {
    const auto part = [](DType t) {
      return t == DType::C64 ? DType::F32 : t == DType::C128 ? DType::F64 : is_integer(t) ? float_holding(t) : t;
    };
    return promote_floats(part(a), part(b)) == DType::F64 ? DType::C128 : DType::C64;
  }
  if (is_integer(a) && is_integer(b)) return promote_integers(a, b);
  if (!is_integer(a) && !is_integer(b)) return promote_floats(a, b);
  const DType f = is_integer(a) ? b : a, i = float_holding(is_integer(a) ? a : b);
  return i == DType::F16 ? f : promote_floats(f, i);
}

constexpr auto kPromote = [] {
  std::array<std::array<DType, kDTypes>, kDTypes> table{};
  for (int a = 0; a < kDTypes; ++a)
    for (int b = 0; b < kDTypes; ++b) table[a][b] = promote_types(DType(a), DType(b));
  return table;
}();

// Binary formats of 16 bits: `mantissa` explicit bits, the rest is sign and exponent. Ties go to even.
uint16_t encode16(double x, int mantissa) {
  const int exponent_bits = 15 - mantissa, bias = (1 << (exponent_bits - 1)) - 1, emin = 1 - bias;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0, inf = uint16_t(((1 << exponent_bits) - 1) << mantissa);
  if (std::isnan(x)) return uint16_t(sign | inf | (1 << (mantissa - 1)));
  x = std::fabs(x);
  if (std::isinf(x)) return sign | inf;
  if (x == 0) return sign;
  const int e = std::max(std::ilogb(x), emin);
  // In units of the last place; a mantissa that rounds up to the next power of two carries into the exponent by itself.
  const double units = std::nearbyint(std::ldexp(x, mantissa - e));
  const int64_t bits = (int64_t(e - emin) << mantissa) + int64_t(units);
  return uint16_t(sign | (bits >= inf ? inf : bits));
}

double decode16(uint16_t h, int mantissa) {
  const int exponent_bits = 15 - mantissa, bias = (1 << (exponent_bits - 1)) - 1;
  const int e = (h & 0x7fff) >> mantissa, m = h & ((1 << mantissa) - 1);
  double x;
  if (e == (1 << exponent_bits) - 1)
    x = m ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else
    x = std::ldexp(e ? m + (1 << mantissa) : m, std::max(e, 1) - bias - mantissa);
  return h & 0x8000 ? -x : x;
}

template <class T, class V>
void put(V v, void* to) {
  const T t = T(v);
  std::memcpy(to, &t, sizeof t);
}

template <class T>
T get(const void* from) {
  T t;
  std::memcpy(&t, from, sizeof t);
  return t;
}

}  // namespace

const char* name(DType t) { return t < DType::Count ? kNames[int(t)] : "unknown"; }
DType promote(DType a, DType b) { return kPromote[int(a)][int(b)]; }

DType to_float(DType t) {
  if (t >= DType::F16) return t;
  return t == DType::Bool || itemsize(t) <= 2 ? DType::F32 : DType::F64;
}

Shape::Shape(std::initializer_list<int64_t> d) : Shape(std::span<const int64_t>(d.begin(), d.size())) {}

Shape::Shape(std::span<const int64_t> d) {
  if (d.size() > size_t(kMaxRank)) too_many(d.size());
  rank = int32_t(d.size());
  std::copy(d.begin(), d.end(), dim);
}

void Shape::too_many(size_t rank) {
  throw Error(Error::Value, "[shape] an array of " + std::to_string(rank) + " dimensions: at most " +
                                std::to_string(kMaxRank) + " are supported. Join some of them with reshape.");
}

std::string str(const Shape& s) {
  std::string text = "(";
  for (int i = 0; i < s.rank; ++i) {
    if (i) text += ", ";
    text += std::to_string(s[i]);
  }
  return text + (s.rank == 1 ? ",)" : ")");
}

std::string str(DeviceId d) { return d.kind == DeviceKind::Cpu ? "cpu" : "cuda:" + std::to_string(d.index); }

void store(Scalar s, DType t, void* to) {
  switch (t) {
    case DType::Bool: return put<uint8_t>(s.i != 0, to);
    case DType::I8: return put<int8_t>(s.i, to);
    case DType::I16: return put<int16_t>(s.i, to);
    case DType::I32: return put<int32_t>(s.i, to);
    case DType::I64: return put<int64_t>(s.i, to);
    case DType::U8: return put<uint8_t>(s.u, to);
    case DType::U16: return put<uint16_t>(s.u, to);
    case DType::U32: return put<uint32_t>(s.u, to);
    case DType::U64: return put<uint64_t>(s.u, to);
    case DType::F16: return put<uint16_t>(encode16(s.f, 10), to);
    case DType::BF16: return put<uint16_t>(encode16(s.f, 7), to);
    case DType::F32: return put<float>(s.f, to);
    case DType::F64: return put<double>(s.f, to);
    case DType::C64: put<float>(s.f, to); return put<float>(0, static_cast<char*>(to) + 4);
    case DType::C128: put<double>(s.f, to); return put<double>(0, static_cast<char*>(to) + 8);
    case DType::Count: break;
  }
  throw Error(Error::Type, "[store] unknown element type.");
}

Scalar load(DType t, const void* from) {
  Scalar s{};
  switch (t) {
    case DType::Bool: s.i = get<uint8_t>(from) != 0; return s;
    case DType::I8: s.i = get<int8_t>(from); return s;
    case DType::I16: s.i = get<int16_t>(from); return s;
    case DType::I32: s.i = get<int32_t>(from); return s;
    case DType::I64: s.i = get<int64_t>(from); return s;
    case DType::U8: s.u = get<uint8_t>(from); return s;
    case DType::U16: s.u = get<uint16_t>(from); return s;
    case DType::U32: s.u = get<uint32_t>(from); return s;
    case DType::U64: s.u = get<uint64_t>(from); return s;
    case DType::F16: s.f = decode16(get<uint16_t>(from), 10); return s;
    case DType::BF16: s.f = decode16(get<uint16_t>(from), 7); return s;
    case DType::F32: case DType::C64: s.f = get<float>(from); return s;
    case DType::F64: case DType::C128: s.f = get<double>(from); return s;
    case DType::Count: break;
  }
  throw Error(Error::Type, "[load] unknown element type.");
}

}  // namespace knet
