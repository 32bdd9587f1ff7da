/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_LAYOUT_H
#define GRANARY_TESTS_GUEST_LAYOUT_H

/* What tiny guests share with the host, for C and assembly: the numbers of vmpool/base/machine_layout.h (layout_test.cc
 * holds the two together) and the places and marks that tests look for. */

#define TINY_VIRTIO_BASE 0xd0000000
#define TINY_VIRTIO_STRIDE 0x1000
#define TINY_VIRTIO_SLOTS 19
#define TINY_SERIAL_PORT 0x3f8
#define TINY_I8042_PORT 0x64
#define TINY_SLEEP_PORT 0x600
#define TINY_RESET_PORT 0x602
#define TINY_RESET_VALUE 1
#define TINY_SLEEP_S5 5
#define TINY_PVPANIC_PORT 0x505
#define TINY_DOORBELL_PORT 0x520
#define TINY_VMGENID_ADDRESS 0xef000
#define TINY_VSOCK_HOST_CID 2
#define TINY_VSOCK_PORT 1024

/* Doorbell values. */
#define TINY_BELL_READY 1
#define TINY_MARK_START 0x10    /* first instructions of C at CPL3 */
#define TINY_MARK_RESTORED 0x11 /* the VM generation id changed: this is a clone that runs */
#define TINY_MARK_DIRTIED 0x12  /* dirty= is done */
#define TINY_MARK_VERIFIED 0x13 /* the pages of fill= hold what was written before the snapshot */
#define TINY_MARK_DAMAGED 0x1f  /* they do not */

/* tiny-counter's 64-bit counter, alone in its page, and where fill= and dirty= and echo's buffers begin. */
#define TINY_COUNTER_ADDRESS 0x180000
#define TINY_FILL_ADDRESS 0x200000

#endif
