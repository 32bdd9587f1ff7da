/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_VIRTIO_MMIO_H
#define GRANARY_TESTS_GUEST_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/vsock.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A polled driver of one virtio-vsock device behind virtio-mmio (virtio 1.2, 4.2.3 and 5.10). It takes no interrupts
 * and negotiates VIRTIO_F_VERSION_1 only. The bus is a parameter, so that a test can run the driver against the VMM's
 * device without a virtual machine. */

struct tiny_bus {
  uint32_t (*read)(void* context, uint32_t offset);
  void (*write)(void* context, uint32_t offset, uint32_t value);
  void* context;
  uintptr_t memory; /* the C address of guest physical address 0 */
};

#define TINY_ALIGNED(n) __attribute__((aligned(n)))
#define TINY_QUEUE_SIZE 16
#define TINY_RX_BUFFERS 8
#define TINY_RX_BYTES 2048
#define TINY_TX_BYTES 256
#define TINY_EVENTS 4

struct tiny_descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
struct tiny_used_element {
  uint32_t id;
  uint32_t length;
};
struct tiny_ring { /* a split virtqueue (virtio 1.2, 2.7) */
  struct tiny_descriptor descriptors[TINY_QUEUE_SIZE];
  struct {
    uint16_t flags, index, ring[TINY_QUEUE_SIZE], used_event;
  } available;
  struct {
    uint16_t flags TINY_ALIGNED(4);
    uint16_t index;
    struct tiny_used_element ring[TINY_QUEUE_SIZE];
    uint16_t available_event;
  } used;
};
struct tiny_queue {
  struct tiny_ring* ring;
  uint32_t number;
  uint16_t size;
  uint16_t available; /* our copies: the next free place, and the next used element to look at */
  uint16_t used;
};

/* Lies in guest memory as a whole. */
struct tiny_device {
  struct tiny_bus bus;
  struct tiny_queue rx, tx, event;
  uint32_t tx_in_flight;
  struct tiny_vsock vsock;
  struct tiny_ring rings[3] TINY_ALIGNED(64);
  uint32_t events[TINY_EVENTS];
  uint8_t tx_buffers[TINY_QUEUE_SIZE][TINY_TX_BYTES] TINY_ALIGNED(64);
  uint8_t rx_buffers[TINY_RX_BUFFERS][TINY_RX_BYTES] TINY_ALIGNED(4096);
};

/* Finds and starts the device. `device` is zero but for `bus` and `vsock.behaviour`. Null, or what went wrong. */
const char* tiny_device_start(struct tiny_device* device);
/* One round: takes what has arrived, works, sends answers. */
enum tiny_action tiny_device_poll(struct tiny_device* device);

#ifdef __cplusplus
}
#endif
#endif
