/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/virtio_mmio.h"

#include <stddef.h>

/* Registers of virtio-mmio version 2 (virtio 1.2, 4.2.2). */
enum {
  MAGIC = 0x00,
  VERSION = 0x04,
  DEVICE_ID = 0x08,
  DEVICE_FEATURES = 0x10,
  DEVICE_FEATURES_SEL = 0x14,
  DRIVER_FEATURES = 0x20,
  DRIVER_FEATURES_SEL = 0x24,
  QUEUE_SEL = 0x30,
  QUEUE_NUM_MAX = 0x34,
  QUEUE_NUM = 0x38,
  QUEUE_READY = 0x44,
  QUEUE_NOTIFY = 0x50,
  STATUS = 0x70,
  QUEUE_DESC = 0x80,
  QUEUE_DRIVER = 0x90,
  QUEUE_DEVICE = 0xa0,
  CONFIG_GENERATION = 0xfc,
  CONFIG = 0x100,
};
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { USED_NO_NOTIFY = 1, AVAILABLE_NO_INTERRUPT = 1 };
#define MAGIC_VALUE 0x74726976u /* "virt" */
#define VERSION_1_HIGH 1u       /* VIRTIO_F_VERSION_1 is bit 32 */

static uint32_t get(const struct tiny_bus* bus, uint32_t offset) { return bus->read(bus->context, offset); }

static void set(const struct tiny_bus* bus, uint32_t offset, uint32_t value) {
  bus->write(bus->context, offset, value);
}

static void set_address(const struct tiny_bus* bus, uint32_t offset, const volatile void* at) {
  const uint64_t address = (uintptr_t)at - bus->memory;
  set(bus, offset, (uint32_t)address);
  set(bus, offset + 4, (uint32_t)(address >> 32));
}

uint32_t tiny_virtio_id(const struct tiny_bus* bus) {
  return get(bus, MAGIC) == MAGIC_VALUE && get(bus, VERSION) == 2 ? get(bus, DEVICE_ID) : 0;
}

const char* tiny_virtio_negotiate(const struct tiny_bus* bus, uint32_t features) {
  set(bus, STATUS, 0);
  set(bus, STATUS, ACKNOWLEDGE);
  set(bus, STATUS, ACKNOWLEDGE | DRIVER);
  set(bus, DEVICE_FEATURES_SEL, 1);
  if ((get(bus, DEVICE_FEATURES) & VERSION_1_HIGH) == 0) return "a device does not offer VIRTIO_F_VERSION_1";
  set(bus, DRIVER_FEATURES_SEL, 0);
  set(bus, DRIVER_FEATURES, features);
  set(bus, DRIVER_FEATURES_SEL, 1);
  set(bus, DRIVER_FEATURES, VERSION_1_HIGH);
  set(bus, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  return (get(bus, STATUS) & FEATURES_OK) != 0 ? NULL : "a device refuses the features";
}

const char* tiny_virtio_set_up_queue(const struct tiny_bus* bus, struct tiny_queue* queue, struct tiny_ring* ring,
                                     uint32_t number) {
  set(bus, QUEUE_SEL, number);
  const uint32_t largest = get(bus, QUEUE_NUM_MAX);
  if (get(bus, QUEUE_READY) != 0 || largest == 0) return "a queue is missing";
  if (largest < TINY_QUEUE_SIZE) return "a queue is too small";
  queue->ring = ring;
  queue->number = number;
  queue->size = TINY_QUEUE_SIZE;
  ring->available.flags = AVAILABLE_NO_INTERRUPT;
  set(bus, QUEUE_NUM, TINY_QUEUE_SIZE);
  set_address(bus, QUEUE_DESC, ring->descriptors);
  set_address(bus, QUEUE_DRIVER, &ring->available);
  set_address(bus, QUEUE_DEVICE, &ring->used);
  set(bus, QUEUE_READY, 1);
  return NULL;
}

void tiny_virtio_driver_ok(const struct tiny_bus* bus) {
  set(bus, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

uint64_t tiny_virtio_config(const struct tiny_bus* bus, uint32_t offset) {
  for (;;) {
    const uint32_t generation = get(bus, CONFIG_GENERATION);
    const uint64_t low = get(bus, CONFIG + offset);
    const uint64_t high = get(bus, CONFIG + offset + 4);
    if (get(bus, CONFIG_GENERATION) == generation) return high << 32 | low;
  }
}

void tiny_queue_describe(const struct tiny_bus* bus, struct tiny_queue* queue, uint16_t at, const void* buffer,
                         uint32_t length, uint16_t flags) {
  queue->ring->descriptors[at] =
      (struct tiny_descriptor){.address = (uintptr_t)buffer - bus->memory, .length = length, .flags = flags};
}

void tiny_queue_offer(struct tiny_queue* queue, uint16_t descriptor) {
  queue->ring->available.ring[queue->available % queue->size] = descriptor;
  ++queue->available;
  __atomic_store_n(&queue->ring->available.index, queue->available, __ATOMIC_RELEASE);
}

void tiny_queue_notify(const struct tiny_bus* bus, const struct tiny_queue* queue) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* index before flags: 2.7.13.4.1 */
  if ((__atomic_load_n(&queue->ring->used.flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY) == 0) {
    set(bus, QUEUE_NOTIFY, queue->number);
  }
}

bool tiny_queue_take_used(struct tiny_queue* queue, struct tiny_used_element* element) {
  if (__atomic_load_n(&queue->ring->used.index, __ATOMIC_ACQUIRE) == queue->used) return false;
  *element = queue->ring->used.ring[queue->used % queue->size];
  ++queue->used;
  return element->id < queue->size;
}
