// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/ioctl.h>

#include <array>
#include <cstdint>
#include <string>

#include "vmpool/base/result.h"
#include "vmpool/kvm/ioctl_numbers.h"

// Internal to this room: one ioctl with its name in the error.
namespace granary::kvm {

inline Error ioctl_error(const char* name, const std::string& what = "") {
  return Error::last_os_error(what.empty() ? name : name + (" " + what));
}

// An ioctl that takes a pointer; its non-negative result.
template <class T>
Result<int> call(int fd, const char* name, unsigned long number, T* argument, const std::string& what = "") {
  const int result = ::ioctl(fd, number, argument);
  if (result < 0) return ioctl_error(name, what);
  return result;
}

// An ioctl that takes a number (0: nothing).
inline Result<int> call_value(int fd, const char* name, unsigned long number, unsigned long argument = 0,
                              const std::string& what = "") {
  const int result = ::ioctl(fd, number, argument);
  if (result < 0) return ioctl_error(name, what);
  return result;
}

template <class T>
Result<T> get(int fd, const char* name, unsigned long number) {
  T value{};
  GRANARY_TRY(call(fd, name, number, &value));
  return value;
}

template <class T>
Status set(int fd, const char* name, unsigned long number, const T& value, const std::string& what = "") {
  T copy = value;
  GRANARY_TRY(call(fd, name, number, &copy, what));
  return ok();
}

// kvm_cpuid2 and kvm_msrs with room for their elements.
template <class Element, size_t N>
struct Counted {
  uint32_t count = 0;
  uint32_t padding = 0;
  std::array<Element, N> elements;
};

}  // namespace granary::kvm
