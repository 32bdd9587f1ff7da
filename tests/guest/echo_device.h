/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_ECHO_DEVICE_H
#define GRANARY_TESTS_GUEST_ECHO_DEVICE_H

#include "tests/guest/virtio_mmio.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A polled driver of one virtio-net device (virtio 1.2, 5.1) that sends each frame back as it came, its offloads
 * included, in the buffer that it came in: nothing is copied. It takes checksums and TCP segmentation in both
 * directions, so a frame may have 64 KiB, and each buffer holds a whole one. */

#define TINY_ECHO_BUFFER_BYTES (72 * 1024) /* header and the largest frame */
#define TINY_ECHO_BYTES (TINY_QUEUE_SIZE * TINY_ECHO_BUFFER_BYTES)

/* Lies in guest memory as a whole. */
struct tiny_echo {
  struct tiny_bus bus;
  struct tiny_queue rx, tx;
  struct tiny_ring rings[2] TINY_ALIGNED(64);
  uint8_t* buffers; /* TINY_ECHO_BYTES; buffer n is described by descriptor n of either queue */
};

/* Is there such a device at `bus`? */
bool tiny_echo_finds_device(const struct tiny_bus* bus);
/* `echo` is zero but for `bus` and `buffers`. Null, or what went wrong. */
const char* tiny_echo_start(struct tiny_echo* echo);
/* One round: sends back what has arrived. */
void tiny_echo_poll(struct tiny_echo* echo);

#ifdef __cplusplus
}
#endif
#endif
