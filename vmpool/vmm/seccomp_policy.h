// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/if_tun.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <csignal>

#include "vmpool/kvm/ioctl_numbers.h"

// What granary-vmm may ask of the kernel; everything else kills it (SIGSYS). Read by seccomp_compile.cc when Granary is
// built; docs/threat-model.md holds the same table, which a test compares.
namespace granary::vmm::seccomp {

// Who may make a call. Set-up lasts until the machine exists, which is before any guest ran, and may do what the other
// three may as well.
enum Threads : unsigned {
  kLoop = 1,
  kVcpu = 2,
  kWorker = 4,
  kSetup = 8,
  kEach = kLoop | kVcpu | kWorker,
};

// A condition on one argument: (argument & mask) == value.
struct Condition {
  unsigned argument;
  uint64_t mask;
  uint64_t value;
};
inline constexpr uint64_t kAllBits = ~uint64_t{0};

struct Rule {
  int syscall;
  const char* name;
  unsigned threads;
  const char* why;
  const char* only = "";  // what the conditions say, for people
  // Alternatives: one of them must hold; none: any arguments.
  Condition conditions[4] = {};
  unsigned condition_count = 0;
};

#define GRANARY_CALL(name) SCMP_SYS(name), #name

inline constexpr Rule kRules[] = {
    {GRANARY_CALL(read), kLoop, "eventfds"},
    {GRANARY_CALL(write), kEach, "eventfds, log lines on standard error"},
    {GRANARY_CALL(readv), kLoop, "vsock streams, taps, the file server"},
    {GRANARY_CALL(writev), kLoop, "taps"},
    {GRANARY_CALL(preadv), kLoop | kWorker, "block files; kernels and snapshots on the loop"},
    {GRANARY_CALL(pwritev), kLoop | kWorker, "block files; snapshots on the loop"},
    {GRANARY_CALL(sendto), kLoop, "vsock streams"},
    {GRANARY_CALL(recvfrom), kLoop, "vsock streams"},
    {GRANARY_CALL(sendmsg), kLoop, "control socket, vsock streams, the file server"},
    {GRANARY_CALL(recvmsg), kLoop, "control socket, with the descriptors that requests bring"},
    {GRANARY_CALL(accept4), kLoop, "the per-clone vsock listener"},
    {GRANARY_CALL(shutdown), kLoop, "half-closed vsock streams"},
    {GRANARY_CALL(close), kLoop, "vsock streams, files of requests"},
    {GRANARY_CALL(newfstatat),
     kLoop,
     "sizes and kinds of files it was given (fstat)",
     "of a descriptor (AT_EMPTY_PATH)",
     {{3, kAllBits, 0x1000}},
     1},
    {GRANARY_CALL(lseek), kLoop, "size of a block file or device"},
    {GRANARY_CALL(fcntl),
     kLoop,
     "seals of templates, non-blocking streams, duplicates",
     "F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, F_GET_SEALS",
     {{1, kAllBits, 1030}, {1, kAllBits, 3}, {1, kAllBits, 4}, {1, kAllBits, 1034}},
     4},
    {GRANARY_CALL(ftruncate), kLoop, "size of a snapshot's memory file"},
    {GRANARY_CALL(fallocate), kWorker, "discard and write-zeroes of block devices"},
    {GRANARY_CALL(fdatasync), kWorker, "flush of block devices"},
    {GRANARY_CALL(epoll_ctl), kLoop, "the event loop"},
    {GRANARY_CALL(epoll_wait), kLoop, "the event loop"},
    {GRANARY_CALL(poll), kLoop, "control socket; waiting for vCPUs to stop"},
    {GRANARY_CALL(getrandom), kLoop, "the entropy device"},
    {GRANARY_CALL(mmap),
     kEach,
     "a template's memory; the C library's heap",
     "without PROT_EXEC",
     {{2, PROT_EXEC, 0}},
     1},
    {GRANARY_CALL(munmap), kEach, "heap, guest memory at the end"},
    {GRANARY_CALL(brk), kEach, "heap"},
    {GRANARY_CALL(madvise),
     kEach,
     "balloon; stacks of ended threads",
     "MADV_DONTNEED",
     {{2, kAllBits, MADV_DONTNEED}},
     1},
    {GRANARY_CALL(futex), kEach, "mutexes, condition variables, atomic waits"},
    {GRANARY_CALL(sched_yield), kEach, "atomic waits"},
    {GRANARY_CALL(clock_gettime), kEach, "time, where the vDSO cannot tell it"},
    {GRANARY_CALL(rt_sigreturn), kEach, "end of the kick handler"},
    {GRANARY_CALL(rt_sigprocmask), kEach, "threads that end, abort(3)"},
    {GRANARY_CALL(rt_sigaction), kEach, "abort(3)", "SIGABRT", {{0, kAllBits, SIGABRT}}, 1},
    {GRANARY_CALL(tgkill),
     kEach,
     "kicks of vCPUs, abort(3); its pid namespace holds nobody else",
     "SIGUSR1, SIGABRT",
     {{2, kAllBits, SIGUSR1}, {2, kAllBits, SIGABRT}},
     2},
    {GRANARY_CALL(getpid), kEach, "pthread_kill(3)"},
    {GRANARY_CALL(gettid), kEach, "pthread_kill(3)"},
    {GRANARY_CALL(restart_syscall), kEach, "calls with a timeout, after SIGSTOP and SIGCONT"},
    {GRANARY_CALL(exit), kEach, "end of a thread"},
    {GRANARY_CALL(exit_group), kEach, "end of the process"},
    {GRANARY_CALL(clone3), kSetup, "threads"},
    {GRANARY_CALL(rt_sigaction), kSetup, "the C library, at the first thread", "its signal 33", {{0, kAllBits, 33}}, 1},
    {GRANARY_CALL(set_robust_list), kSetup, "threads"},
    {GRANARY_CALL(rseq), kSetup, "threads"},
    {GRANARY_CALL(mprotect), kSetup, "stacks of threads", "without PROT_EXEC", {{2, PROT_EXEC, 0}}, 1},
    {GRANARY_CALL(eventfd2), kSetup, "kicks and interrupts of devices"},
    {GRANARY_CALL(seccomp), kSetup, "each thread narrows its own filter"},
};

#undef GRANARY_CALL

// ioctl(2) by request; the table in the documentation has it as one more call.
struct IoctlRule {
  unsigned long request;
  unsigned threads;
};

inline constexpr IoctlRule kIoctls[] = {
    {KVM_RUN, kVcpu},
    {KVM_GET_API_VERSION, kSetup},
    {KVM_CHECK_EXTENSION, kSetup},
    {KVM_GET_VCPU_MMAP_SIZE, kSetup},
    {GRANARY_KVM_GET_SUPPORTED_CPUID, kSetup},
    {KVM_CREATE_VM, kSetup},
    {KVM_CREATE_VCPU, kSetup},
    {KVM_CREATE_IRQCHIP, kSetup},
    {KVM_SET_USER_MEMORY_REGION, kSetup},
    {KVM_SET_IDENTITY_MAP_ADDR, kSetup},
    {KVM_SET_TSS_ADDR, kSetup},
    {KVM_IRQFD, kSetup},
    {GRANARY_KVM_SET_CPUID2, kSetup},
    {GRANARY_KVM_GET_MSR_INDEX_LIST, kLoop},
    {GRANARY_KVM_GET_MSRS, kLoop},
    {GRANARY_KVM_SET_MSRS, kLoop},
    {KVM_GET_REGS, kLoop},
    {KVM_SET_REGS, kLoop},
    {KVM_GET_SREGS, kLoop},
    {KVM_SET_SREGS, kLoop},
    {GRANARY_KVM_GET_XSAVE, kLoop},
    {GRANARY_KVM_GET_XSAVE2, kLoop},
    {GRANARY_KVM_SET_XSAVE, kLoop},
    {KVM_GET_XCRS, kLoop},
    {KVM_SET_XCRS, kLoop},
    {KVM_GET_DEBUGREGS, kLoop},
    {KVM_SET_DEBUGREGS, kLoop},
    {KVM_GET_LAPIC, kLoop},
    {KVM_SET_LAPIC, kLoop},
    {KVM_GET_VCPU_EVENTS, kLoop},
    {KVM_SET_VCPU_EVENTS, kLoop},
    {KVM_GET_MP_STATE, kLoop},
    {KVM_SET_MP_STATE, kLoop},
    {KVM_GET_TSC_KHZ, kLoop},
    {KVM_SET_TSC_KHZ, kLoop},
    {KVM_GET_DEVICE_ATTR, kLoop},
    {KVM_SET_DEVICE_ATTR, kLoop},
    {KVM_KVMCLOCK_CTRL, kLoop},
    {KVM_GET_IRQCHIP, kLoop},
    {KVM_SET_IRQCHIP, kLoop},
    {KVM_GET_CLOCK, kLoop},
    {KVM_SET_CLOCK, kLoop},
    {TUNSETVNETHDRSZ, kLoop},
    {TUNSETOFFLOAD, kLoop},
};

}  // namespace granary::vmm::seccomp
