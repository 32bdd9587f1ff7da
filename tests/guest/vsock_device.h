/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_VSOCK_DEVICE_H
#define GRANARY_TESTS_GUEST_VSOCK_DEVICE_H

#include "tests/guest/virtio_mmio.h"
#include "tests/guest/vsock.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A polled driver of one virtio-vsock device (virtio 1.2, 5.10). */

#define TINY_RX_BUFFERS 8
#define TINY_RX_BYTES 2048
#define TINY_TX_BYTES 256
#define TINY_EVENTS 4

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
