/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/echo_device.h"

#include <stddef.h>

#define DEVICE_NET 1u
enum { RX, TX };
/* Feature bits, 5.1.3. */
enum {
  CSUM = 1 << 0,
  GUEST_CSUM = 1 << 1,
  GUEST_TSO4 = 1 << 7,
  GUEST_TSO6 = 1 << 8,
  GUEST_ECN = 1 << 9,
  HOST_TSO4 = 1 << 11,
  HOST_TSO6 = 1 << 12,
  HOST_ECN = 1 << 13,
};
enum { NEEDS_CSUM = 1 };
struct net_header { /* 5.1.6 */
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

static uint8_t* buffer_of(struct tiny_echo* echo, uint32_t at) {
  return echo->buffers + (size_t)at * TINY_ECHO_BUFFER_BYTES;
}

static void offer_room(struct tiny_echo* echo, uint16_t at) {
  tiny_queue_describe(&echo->bus, &echo->rx, at, buffer_of(echo, at), TINY_ECHO_BUFFER_BYTES, TINY_DEVICE_WRITES);
  tiny_queue_offer(&echo->rx, at);
}

bool tiny_echo_finds_device(const struct tiny_bus* bus) { return tiny_virtio_id(bus) == DEVICE_NET; }

const char* tiny_echo_start(struct tiny_echo* echo) {
  const char* wrong = tiny_virtio_negotiate(
      &echo->bus, CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN);
  if (wrong == NULL) wrong = tiny_virtio_set_up_queue(&echo->bus, &echo->rx, &echo->rings[RX], RX);
  if (wrong == NULL) wrong = tiny_virtio_set_up_queue(&echo->bus, &echo->tx, &echo->rings[TX], TX);
  if (wrong != NULL) return wrong;
  for (uint16_t i = 0; i < TINY_QUEUE_SIZE; ++i) offer_room(echo, i);
  tiny_virtio_driver_ok(&echo->bus);
  tiny_queue_notify(&echo->bus, &echo->rx);
  return NULL;
}

/* What a driver that sends it must clear (5.1.6.2.1). */
static void turn_round(uint8_t* buffer) {
  struct net_header header;
  __builtin_memcpy(&header, buffer, sizeof header);
  header.flags &= NEEDS_CSUM;
  header.num_buffers = 0;
  __builtin_memcpy(buffer, &header, sizeof header);
}

void tiny_echo_poll(struct tiny_echo* echo) {
  struct tiny_used_element done;
  bool offered = false;
  while (tiny_queue_take_used(&echo->tx, &done)) {
    offer_room(echo, (uint16_t)done.id);
    offered = true;
  }
  if (offered) tiny_queue_notify(&echo->bus, &echo->rx);
  bool sent = false;
  while (tiny_queue_take_used(&echo->rx, &done)) {
    if (done.length < sizeof(struct net_header) || done.length > TINY_ECHO_BUFFER_BYTES) {
      offer_room(echo, (uint16_t)done.id); /* the device's nonsense */
      continue;
    }
    turn_round(buffer_of(echo, done.id));
    tiny_queue_describe(&echo->bus, &echo->tx, (uint16_t)done.id, buffer_of(echo, done.id), done.length,
                        TINY_DEVICE_READS);
    tiny_queue_offer(&echo->tx, (uint16_t)done.id);
    sent = true;
  }
  if (sent) tiny_queue_notify(&echo->bus, &echo->tx);
}
