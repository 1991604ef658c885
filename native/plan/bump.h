// Memory of a plan while it is being made. The stages fill thousands of lists, and none outlives the planning: they are
// taken from blocks, one after the other, and given back all at once. (Half of the time to plan a small graph went to
// malloc, free, and to page faults, since the C library returns the end of its heap to the system at every large free.)
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace knet {

class Blocks {
 public:
  static Blocks& here() { return *now(); }
  void* take(size_t bytes) {
    bytes = (bytes + 15) & ~size_t(15);
    if (at_ + bytes > size_) next(bytes);
    void* p = block_ + at_;
    at_ += bytes;
    return p;
  }

  // All that is taken in its lifetime is given back at its end; what was taken before stays.
  class Scope {
   public:
    Scope() : blocks_(here()), kept_(blocks_.used_), at_(blocks_.at_) {}
    ~Scope() { blocks_.back_to(kept_, at_); }
    Scope(const Scope&) = delete;

   private:
    Blocks& blocks_;
    size_t kept_, at_;
  };

  // Stages fill two sets of blocks by turns: each reads what the one before it has made in the other set, and what was
  // made before that is given back. So a plan takes less memory, which stays in the cache.
  class Turns {
   public:
    Turns() : first_(now()) {
      for (int i = 0; i < 2; ++i) kept_[i] = both()[i].used_, at_[i] = both()[i].at_;
    }
    ~Turns() {
      const bool second = first_ == both();
      both()[second].back_to(kept_[second], at_[second]);
      now() = first_;
    }
    Turns(const Turns&) = delete;

    // From here on the other set is filled, and what it has been filled with in this lifetime is gone.
    void next() {
      const bool other = now() == both();
      now() = both() + other;
      now()->enter(kept_[other]);
      now()->at_ = at_[other];
    }

   private:
    Blocks* first_;
    size_t kept_[2], at_[2];
  };

 private:
  static constexpr size_t kBlock = 256 << 10;
  static constexpr size_t kKept = 4 << 20;  // bytes for the next time
  struct Block {
    std::unique_ptr<char[]> data;
    size_t size;
  };
  std::vector<Block> list_;
  size_t used_ = 0;  // blocks in use; the last of them is block_
  char* block_ = nullptr;
  size_t at_ = 0, size_ = 0;

  static Blocks* both() {
    static thread_local Blocks sets[2];
    return sets;
  }
  static Blocks*& now() {
    constinit static thread_local Blocks* set = nullptr;
    if (!set) [[unlikely]] set = both();
    return set;
  }
  void next(size_t bytes) {
    if (used_ == list_.size() || list_[used_].size < bytes) {
      list_.resize(used_);
      const size_t size = bytes > kBlock ? bytes : kBlock;
      list_.push_back({std::make_unique_for_overwrite<char[]>(size), size});
    }
    enter(++used_);
    at_ = 0;
  }
  void enter(size_t used) {
    used_ = used;
    block_ = used ? list_[used - 1].data.get() : nullptr;
    size_ = used ? list_[used - 1].size : 0;
  }
  void back_to(size_t used, size_t at) {
    size_t kept = 0, n = used;
    while (n < list_.size() && kept + list_[n].size <= kKept) kept += list_[n++].size;
    list_.resize(n);
    enter(used);
    at_ = at;
  }
};

// A vector of plain data (or of lists of it) in blocks: it must not outlive the innermost Blocks::Scope in which it was
// filled, nor the second Blocks::Turns::next() after that. It has no destructor, and when it grows its old memory stays
// as it was: references to elements remain good for reading.
template <class T>
class List {
  static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 16);

 public:
  using value_type = T;
  List() = default;
  explicit List(size_t n) { resize(n); }
  List(size_t n, const T& x) { assign(n, x); }
  template <std::input_iterator It>
  List(It from, It to) { assign(from, to); }
  List(std::initializer_list<T> l) : List(l.begin(), l.end()) {}
  List(const List& o) : List(o.begin(), o.end()) {}
  List(List&& o) noexcept : data_(o.data_), size_(o.size_), room_(o.room_) { o.forget(); }
  List& operator=(const List& o) {
    if (this != &o) assign(o.begin(), o.end());
    return *this;
  }
  List& operator=(List&& o) noexcept {
    data_ = o.data_, size_ = o.size_, room_ = o.room_;
    if (this != &o) o.forget();
    return *this;
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T& front() { return data_[0]; }
  T& back() { return data_[size_ - 1]; }
  const T& front() const { return data_[0]; }
  const T& back() const { return data_[size_ - 1]; }
  bool operator==(const List& o) const { return std::ranges::equal(*this, o); }

  void reserve(size_t n) {
    if (n > room_) grow(n);
  }
  void clear() { size_ = 0; }
  void pop_back() { --size_; }
  // `n` more elements, for the caller to fill.
  T* more(size_t n) {
    if (size_ + n > room_) [[unlikely]] grow(size_ + n);
    size_ += n;
    return data_ + size_ - n;
  }
  void push_back(const T& x) { new (more(1)) T(x); }
  void push_back(T&& x) { new (more(1)) T(std::move(x)); }
  T& emplace_back(auto&&... args) { return *new (more(1)) T(std::forward<decltype(args)>(args)...); }
  void resize(size_t n) {
    if constexpr (std::is_scalar_v<T>) return resize(n, T());
    const size_t old = size_;
    if (n > old) more(n - old);
    size_ = n;
    for (size_t i = old; i < n; ++i) new (data_ + i) T;
  }
  void resize(size_t n, const T& x) {
    const size_t old = size_;
    if (n > old) more(n - old);
    size_ = n;
    if constexpr (std::is_integral_v<T>)
      if (n > old && (x == T(0) || x == T(-1))) {  // nearly always
        std::memset(data_ + old, x ? 0xff : 0, (n - old) * sizeof(T));
        return;
      }
    for (size_t i = old; i < n; ++i) new (data_ + i) T(x);
  }
  void assign(size_t n, const T& x) {
    clear();
    resize(n, x);
  }
  template <std::input_iterator It>
  void assign(It from, It to) {
    clear();
    insert(end(), from, to);
  }
  void assign(std::initializer_list<T> l) { assign(l.begin(), l.end()); }
  T* insert(T* at, const T& x) {
    const T kept = x;
    return insert(at, &kept, &kept + 1);
  }
  template <std::input_iterator It>
  T* insert(T* at, It from, It to) {  // not of this list
    const size_t i = size_t(at - data_), n = size_t(std::distance(from, to)), after = size_ - i;
    more(n);
    at = data_ + i;
    if (after) std::memmove(static_cast<void*>(at + n), static_cast<const void*>(at), after * sizeof(T));
    std::uninitialized_copy(from, to, at);
    return at;
  }
  T* erase(T* from, T* to) {
    size_ = size_t(std::move(to, end(), from) - data_);
    return from;
  }

 private:
  static constexpr size_t kLeast = 64;  // bytes
  T* data_ = nullptr;
  size_t size_ = 0, room_ = 0;

  void forget() { data_ = nullptr, size_ = room_ = 0; }
  [[gnu::noinline]] void grow(size_t n) {
    // As large as asked for at first: many lists are filled once.
    const size_t room = std::max({n, 2 * size_, kLeast / sizeof(T)});
    T* to = static_cast<T*>(Blocks::here().take(room * sizeof(T)));
    if (size_) std::memcpy(static_cast<void*>(to), static_cast<const void*>(data_), size_ * sizeof(T));
    data_ = to;
    room_ = room;
  }
};

// The same memory for the standard library's containers of nodes.
template <class T>
struct Bump {
  using value_type = T;
  Bump() = default;
  template <class U>
  Bump(const Bump<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(Blocks::here().take(n * sizeof(T))); }
  void deallocate(T*, size_t) {}
  template <class U>
  bool operator==(const Bump<U>&) const { return true; }
};

template <class T, class If>
void erase_if(List<T>& list, If when) {
  list.erase(std::remove_if(list.begin(), list.end(), when), list.end());
}

}  // namespace knet
