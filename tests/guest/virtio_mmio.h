/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_VIRTIO_MMIO_H
#define GRANARY_TESTS_GUEST_VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the tiny guests' drivers share: the registers of virtio-mmio (virtio 1.2, 4.2.3) and split virtqueues (2.7),
 * polled, without interrupts. The bus is a parameter, so that a test can run a driver against the VMM's device without
 * a virtual machine. */

struct tiny_bus {
  uint32_t (*read)(void* context, uint32_t offset);
  void (*write)(void* context, uint32_t offset, uint32_t value);
  void* context;
  uintptr_t memory; /* the C address of guest physical address 0 */
};

#define TINY_ALIGNED(n) __attribute__((aligned(n)))
#define TINY_QUEUE_SIZE 16

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
enum { TINY_DEVICE_READS = 0, TINY_DEVICE_WRITES = 2 }; /* flags of a descriptor */

/* The device's id (virtio 1.2, 5); 0: there is no device. */
uint32_t tiny_virtio_id(const struct tiny_bus* bus);
/* Up to FEATURES_OK, with VIRTIO_F_VERSION_1 and those of `features` (bits 0 to 31). Null, or what went wrong. */
const char* tiny_virtio_negotiate(const struct tiny_bus* bus, uint32_t features);
/* Null, or what went wrong. `ring` is zero. */
const char* tiny_virtio_set_up_queue(const struct tiny_bus* bus, struct tiny_queue* queue, struct tiny_ring* ring,
                                     uint32_t number);
void tiny_virtio_driver_ok(const struct tiny_bus* bus);
/* 64 bits of config space at `offset`, all of one generation. */
uint64_t tiny_virtio_config(const struct tiny_bus* bus, uint32_t offset);

void tiny_queue_describe(const struct tiny_bus* bus, struct tiny_queue* queue, uint16_t at, const void* buffer,
                         uint32_t length, uint16_t flags);
/* Makes a descriptor available; the device sees it with the index (2.7.13). */
void tiny_queue_offer(struct tiny_queue* queue, uint16_t descriptor);
void tiny_queue_notify(const struct tiny_bus* bus, const struct tiny_queue* queue);
/* The next used element, if any. A device's nonsense is skipped: false then, too. */
bool tiny_queue_take_used(struct tiny_queue* queue, struct tiny_used_element* element);

#ifdef __cplusplus
}
#endif
#endif
