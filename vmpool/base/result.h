// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tl/expected.hpp>
#include <type_traits>
#include <utility>

#include "vmpool/base/error.h"

namespace granary {

// A value or an Error. Never ignored, never throws: check with `if (!r)` or pass the error on with GRANARY_TRY.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : inner_(std::move(value)) {}                        // NOLINT(google-explicit-constructor)
  Result(Error error) : inner_(tl::unexpected(std::move(error))) {}    // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return inner_.has_value(); }
  [[nodiscard]] T& operator*() & { return *inner_; }
  [[nodiscard]] const T& operator*() const& { return *inner_; }
  [[nodiscard]] T&& operator*() && { return std::move(*inner_); }
  [[nodiscard]] T* operator->() { return &*inner_; }
  [[nodiscard]] const T* operator->() const { return &*inner_; }
  [[nodiscard]] const Error& error() const& { return inner_.error(); }
  [[nodiscard]] Error&& error() && { return std::move(inner_.error()); }

 private:
  tl::expected<T, Error> inner_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : inner_(tl::unexpected(std::move(error))) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return inner_.has_value(); }
  void operator*() const {}
  [[nodiscard]] const Error& error() const& { return inner_.error(); }
  [[nodiscard]] Error&& error() && { return std::move(inner_.error()); }

 private:
  tl::expected<void, Error> inner_;
};

using Status = Result<void>;
inline Status ok() { return {}; }

}  // namespace granary

// The value of a Result, or return its error from this function: `Fd fd = GRANARY_TRY(open_file(path));`
// This tree uses it everywhere instead of spelling out the early return.
#define GRANARY_TRY(expression) GRANARY_TRY_NAMED(expression, GRANARY_TRY_NAME(__COUNTER__))
#define GRANARY_TRY_NAME(n) GRANARY_TRY_JOIN(granary_try_, n)
#define GRANARY_TRY_JOIN(a, b) a##b
#define GRANARY_TRY_NAMED(expression, name)           \
  ({                                                  \
    auto name = (expression);                         \
    if (!name) return std::move(name).error();        \
    *std::move(name);                                 \
  })
