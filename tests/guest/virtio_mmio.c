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
enum { DESCRIPTOR_WRITE = 2, USED_NO_NOTIFY = 1, AVAILABLE_NO_INTERRUPT = 1 };
#define MAGIC_VALUE 0x74726976u /* "virt" */
#define DEVICE_VSOCK 19u
#define VERSION_1_HIGH 1u /* VIRTIO_F_VERSION_1 is bit 32 */

static uint32_t get(struct tiny_device* device, uint32_t offset) {
  return device->bus.read(device->bus.context, offset);
}

static void set(struct tiny_device* device, uint32_t offset, uint32_t value) {
  device->bus.write(device->bus.context, offset, value);
}

static void set_address(struct tiny_device* device, uint32_t offset, const volatile void* at) {
  const uint64_t address = (uintptr_t)at - device->bus.memory;
  set(device, offset, (uint32_t)address);
  set(device, offset + 4, (uint32_t)(address >> 32));
}

static uint64_t read_cid(struct tiny_device* device) {
  for (;;) {
    const uint32_t generation = get(device, CONFIG_GENERATION);
    const uint64_t low = get(device, CONFIG);
    const uint64_t high = get(device, CONFIG + 4);
    if (get(device, CONFIG_GENERATION) == generation) return high << 32 | low;
  }
}

static const char* negotiate(struct tiny_device* device) {
  if (get(device, MAGIC) != MAGIC_VALUE || get(device, VERSION) != 2) return "no virtio-mmio device in slot 0";
  if (get(device, DEVICE_ID) != DEVICE_VSOCK) return "the device in slot 0 is not vsock";
  set(device, STATUS, 0);
  set(device, STATUS, ACKNOWLEDGE);
  set(device, STATUS, ACKNOWLEDGE | DRIVER);
  set(device, DEVICE_FEATURES_SEL, 1);
  if ((get(device, DEVICE_FEATURES) & VERSION_1_HIGH) == 0) return "vsock does not offer VIRTIO_F_VERSION_1";
  set(device, DRIVER_FEATURES_SEL, 0);
  set(device, DRIVER_FEATURES, 0);
  set(device, DRIVER_FEATURES_SEL, 1);
  set(device, DRIVER_FEATURES, VERSION_1_HIGH);
  set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  return (get(device, STATUS) & FEATURES_OK) != 0 ? NULL : "vsock refuses the features";
}

static const char* set_up_queue(struct tiny_device* device, struct tiny_queue* queue, uint32_t number) {
  set(device, QUEUE_SEL, number);
  const uint32_t largest = get(device, QUEUE_NUM_MAX);
  if (get(device, QUEUE_READY) != 0 || largest == 0) return "a vsock queue is missing";
  queue->ring = &device->rings[number];
  queue->number = number;
  queue->size = TINY_QUEUE_SIZE;
  if (largest < TINY_QUEUE_SIZE) return "a vsock queue is too small";
  queue->ring->available.flags = AVAILABLE_NO_INTERRUPT;
  set(device, QUEUE_NUM, TINY_QUEUE_SIZE);
  set_address(device, QUEUE_DESC, queue->ring->descriptors);
  set_address(device, QUEUE_DRIVER, &queue->ring->available);
  set_address(device, QUEUE_DEVICE, &queue->ring->used);
  set(device, QUEUE_READY, 1);
  return NULL;
}

/* Makes a descriptor available; the device sees it with the index (virtio 1.2, 2.7.13). */
static void offer(struct tiny_queue* queue, uint16_t descriptor) {
  queue->ring->available.ring[queue->available % queue->size] = descriptor;
  ++queue->available;
  __atomic_store_n(&queue->ring->available.index, queue->available, __ATOMIC_RELEASE);
}

static void notify(struct tiny_device* device, const struct tiny_queue* queue) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* index before flags: 2.7.13.4.1 */
  if ((__atomic_load_n(&queue->ring->used.flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY) == 0) {
    set(device, QUEUE_NOTIFY, queue->number);
  }
}

/* The next used element, if any. A device's nonsense is skipped: false then, too. */
static bool take_used(struct tiny_queue* queue, struct tiny_used_element* element) {
  if (__atomic_load_n(&queue->ring->used.index, __ATOMIC_ACQUIRE) == queue->used) return false;
  *element = queue->ring->used.ring[queue->used % queue->size];
  ++queue->used;
  return element->id < queue->size;
}

static void describe(struct tiny_device* device, struct tiny_queue* queue, uint16_t at, const void* buffer,
                     uint32_t length, uint16_t flags) {
  queue->ring->descriptors[at] =
      (struct tiny_descriptor){.address = (uintptr_t)buffer - device->bus.memory, .length = length, .flags = flags};
}

static uint32_t room(void* context) {
  struct tiny_device* device = context;
  struct tiny_used_element done;
  while (take_used(&device->tx, &done)) --device->tx_in_flight;
  return TINY_QUEUE_SIZE - device->tx_in_flight;
}

/* Buffers are used in turn: the device finishes vsock packets in order. */
static bool send(void* context, const struct tiny_packet* packet, const uint8_t* payload) {
  struct tiny_device* device = context;
  if (packet->len > TINY_TX_BYTES - sizeof *packet || room(device) == 0) return false;
  const uint16_t slot = device->tx.available % TINY_QUEUE_SIZE;
  uint8_t* buffer = device->tx_buffers[slot];
  __builtin_memcpy(buffer, packet, sizeof *packet);
  for (uint32_t i = 0; i < packet->len; ++i) buffer[sizeof *packet + i] = payload[i];
  describe(device, &device->tx, slot, buffer, (uint32_t)sizeof *packet + packet->len, 0);
  ++device->tx_in_flight;
  offer(&device->tx, slot);
  notify(device, &device->tx);
  return true;
}

const char* tiny_device_start(struct tiny_device* device) {
  struct tiny_queue* const queues[] = {&device->rx, &device->tx, &device->event};
  device->vsock.output = (struct tiny_output){.room = room, .send = send, .context = device};
  const char* wrong = negotiate(device);
  for (uint32_t i = 0; wrong == NULL && i < 3; ++i) wrong = set_up_queue(device, queues[i], i);
  if (wrong != NULL) return wrong;
  device->vsock.cid = read_cid(device);
  for (uint16_t i = 0; i < TINY_RX_BUFFERS; ++i) {
    describe(device, &device->rx, i, device->rx_buffers[i], TINY_RX_BYTES, DESCRIPTOR_WRITE);
    offer(&device->rx, i);
  }
  for (uint16_t i = 0; i < TINY_EVENTS; ++i) {
    describe(device, &device->event, i, &device->events[i], sizeof device->events[i], DESCRIPTOR_WRITE);
    offer(&device->event, i);
  }
  set(device, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  notify(device, &device->rx);
  notify(device, &device->event);
  return NULL;
}

static void poll_events(struct tiny_device* device) {
  struct tiny_used_element done;
  if (!take_used(&device->event, &done)) return;
  tiny_vsock_reset(&device->vsock, read_cid(device)); /* the only event there is */
  offer(&device->event, (uint16_t)done.id);
  notify(device, &device->event);
}

static void poll_packets(struct tiny_device* device) {
  struct tiny_used_element done;
  while (room(device) > 0 && take_used(&device->rx, &done)) {
    const uint8_t* buffer = device->rx_buffers[done.id % TINY_RX_BUFFERS];
    struct tiny_packet packet;
    if (done.length >= sizeof packet && done.length <= TINY_RX_BYTES) {
      __builtin_memcpy(&packet, buffer, sizeof packet);
      tiny_vsock_receive(&device->vsock, &packet, buffer + sizeof packet, done.length - (uint32_t)sizeof packet);
    }
    offer(&device->rx, (uint16_t)(done.id % TINY_RX_BUFFERS));
    notify(device, &device->rx);
  }
}

enum tiny_action tiny_device_poll(struct tiny_device* device) {
  poll_events(device);
  poll_packets(device);
  return tiny_vsock_work(&device->vsock);
}
