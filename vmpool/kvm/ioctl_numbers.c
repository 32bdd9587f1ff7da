/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing but proofs: in C, <linux/kvm.h> computes the numbers that ioctl_numbers.h states. */
#include "vmpool/kvm/ioctl_numbers.h"

_Static_assert(GRANARY_KVM_GET_MSR_INDEX_LIST == KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST");
_Static_assert(GRANARY_KVM_GET_SUPPORTED_CPUID == KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID");
_Static_assert(GRANARY_KVM_GET_MSRS == KVM_GET_MSRS, "KVM_GET_MSRS");
_Static_assert(GRANARY_KVM_SET_MSRS == KVM_SET_MSRS, "KVM_SET_MSRS");
_Static_assert(GRANARY_KVM_SET_SIGNAL_MASK == KVM_SET_SIGNAL_MASK, "KVM_SET_SIGNAL_MASK");
_Static_assert(GRANARY_KVM_SET_CPUID2 == KVM_SET_CPUID2, "KVM_SET_CPUID2");
_Static_assert(GRANARY_KVM_GET_CPUID2 == KVM_GET_CPUID2, "KVM_GET_CPUID2");
_Static_assert(GRANARY_KVM_GET_XSAVE == KVM_GET_XSAVE, "KVM_GET_XSAVE");
_Static_assert(GRANARY_KVM_SET_XSAVE == KVM_SET_XSAVE, "KVM_SET_XSAVE");
_Static_assert(GRANARY_KVM_GET_XSAVE2 == KVM_GET_XSAVE2, "KVM_GET_XSAVE2");
_Static_assert(sizeof(struct kvm_msrs) == 8 && sizeof(struct kvm_cpuid2) == 8 && sizeof(struct kvm_msr_list) == 4, "headers");

const unsigned granary_kvm_ioctl_numbers_proven = 1;
