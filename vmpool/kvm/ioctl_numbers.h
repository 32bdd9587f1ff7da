/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <linux/kvm.h>

/* The ioctls whose structures end in a flexible array. In C++ the kernel's __DECLARE_FLEX_ARRAY adds an empty struct,
 * which has a size there, so the sizes, and with them the ioctl numbers in <linux/kvm.h>, are wrong. These are the
 * right ones; ioctl_numbers.c, a C file, proves it. Arguments are the fixed headers below with their elements behind
 * them. */
#define GRANARY_KVM_GET_MSR_INDEX_LIST _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4)
#define GRANARY_KVM_GET_SUPPORTED_CPUID _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8)
#define GRANARY_KVM_GET_MSRS _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8)
#define GRANARY_KVM_SET_MSRS _IOC(_IOC_WRITE, KVMIO, 0x89, 8)
#define GRANARY_KVM_SET_SIGNAL_MASK _IOC(_IOC_WRITE, KVMIO, 0x8b, 4)
#define GRANARY_KVM_SET_CPUID2 _IOC(_IOC_WRITE, KVMIO, 0x90, 8)
#define GRANARY_KVM_GET_CPUID2 _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x91, 8)
#define GRANARY_KVM_GET_XSAVE _IOC(_IOC_READ, KVMIO, 0xa4, 4096)
#define GRANARY_KVM_SET_XSAVE _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096)
#define GRANARY_KVM_GET_XSAVE2 _IOC(_IOC_READ, KVMIO, 0xcf, 4096)
