/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/vsock_device.h"

#include <stddef.h>

#define DEVICE_VSOCK 19u

static uint64_t read_cid(const struct tiny_device* device) { return tiny_virtio_config(&device->bus, 0); }

static uint32_t room(void* context) {
  struct tiny_device* device = context;
  struct tiny_used_element done;
  while (tiny_queue_take_used(&device->tx, &done)) --device->tx_in_flight;
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
  const uint32_t bytes = (uint32_t)sizeof *packet + packet->len;
  tiny_queue_describe(&device->bus, &device->tx, slot, buffer, bytes, TINY_DEVICE_READS);
  ++device->tx_in_flight;
  tiny_queue_offer(&device->tx, slot);
  tiny_queue_notify(&device->bus, &device->tx);
  return true;
}

static void offer_buffer(struct tiny_device* device, struct tiny_queue* queue, uint16_t at, void* buffer,
                         uint32_t bytes) {
  tiny_queue_describe(&device->bus, queue, at, buffer, bytes, TINY_DEVICE_WRITES);
  tiny_queue_offer(queue, at);
}

const char* tiny_device_start(struct tiny_device* device) {
  struct tiny_queue* const queues[] = {&device->rx, &device->tx, &device->event};
  device->vsock.output = (struct tiny_output){.room = room, .send = send, .context = device};
  const uint32_t id = tiny_virtio_id(&device->bus);
  if (id == 0) return "no virtio-mmio device in slot 0";
  if (id != DEVICE_VSOCK) return "the device in slot 0 is not vsock";
  const char* wrong = tiny_virtio_negotiate(&device->bus, 0);
  for (uint32_t i = 0; wrong == NULL && i < 3; ++i) {
    wrong = tiny_virtio_set_up_queue(&device->bus, queues[i], &device->rings[i], i);
  }
  if (wrong != NULL) return wrong;
  device->vsock.cid = read_cid(device);
  for (uint16_t i = 0; i < TINY_RX_BUFFERS; ++i) {
    offer_buffer(device, &device->rx, i, device->rx_buffers[i], TINY_RX_BYTES);
  }
  for (uint16_t i = 0; i < TINY_EVENTS; ++i) {
    offer_buffer(device, &device->event, i, &device->events[i], sizeof device->events[i]);
  }
  tiny_virtio_driver_ok(&device->bus);
  tiny_queue_notify(&device->bus, &device->rx);
  tiny_queue_notify(&device->bus, &device->event);
  return NULL;
}

static void poll_events(struct tiny_device* device) {
  struct tiny_used_element done;
  if (!tiny_queue_take_used(&device->event, &done)) return;
  tiny_vsock_reset(&device->vsock, read_cid(device)); /* the only event there is */
  tiny_queue_offer(&device->event, (uint16_t)done.id);
  tiny_queue_notify(&device->bus, &device->event);
}

static void poll_packets(struct tiny_device* device) {
  struct tiny_used_element done;
  while (room(device) > 0 && tiny_queue_take_used(&device->rx, &done)) {
    const uint8_t* buffer = device->rx_buffers[done.id % TINY_RX_BUFFERS];
    struct tiny_packet packet;
    if (done.length >= sizeof packet && done.length <= TINY_RX_BYTES) {
      __builtin_memcpy(&packet, buffer, sizeof packet);
      tiny_vsock_receive(&device->vsock, &packet, buffer + sizeof packet, done.length - (uint32_t)sizeof packet);
    }
    tiny_queue_offer(&device->rx, (uint16_t)(done.id % TINY_RX_BUFFERS));
    tiny_queue_notify(&device->bus, &device->rx);
  }
}

enum tiny_action tiny_device_poll(struct tiny_device* device) {
  poll_events(device);
  poll_packets(device);
  return tiny_vsock_work(&device->vsock);
}
