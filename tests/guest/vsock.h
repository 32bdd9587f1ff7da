/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_VSOCK_H
#define GRANARY_TESTS_GUEST_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/frame.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Stream connections over virtio-vsock packets (virtio 1.2, 5.10.6): a small table of accepted connections, each
 * carrying requests of guest.proto. Knows neither rings nor registers. */

enum tiny_vsock_op {
  TINY_OP_REQUEST = 1,
  TINY_OP_RESPONSE = 2,
  TINY_OP_RST = 3,
  TINY_OP_SHUTDOWN = 4,
  TINY_OP_RW = 5,
  TINY_OP_CREDIT_UPDATE = 6,
  TINY_OP_CREDIT_REQUEST = 7,
};
#define TINY_TYPE_STREAM 1
#define TINY_SHUTDOWN_RECEIVE 1
#define TINY_SHUTDOWN_SEND 2

struct tiny_packet { /* struct virtio_vsock_hdr: 44 bytes, little endian */
  uint64_t src_cid;
  uint64_t dst_cid;
  uint32_t src_port;
  uint32_t dst_port;
  uint32_t len;
  uint16_t type;
  uint16_t op;
  uint32_t flags;
  uint32_t buf_alloc;
  uint32_t fwd_cnt;
} __attribute__((packed));

#define TINY_CONNECTIONS 8
#define TINY_RECEIVE_BYTES 2048 /* buf_alloc of each connection */

struct tiny_connection {
  bool used;
  uint32_t shutdown; /* TINY_SHUTDOWN_*: what the peer has announced */
  uint32_t peer_port;
  uint32_t peer_buf_alloc;
  uint32_t peer_fwd_cnt;
  uint32_t tx_cnt;
  uint32_t fwd_cnt;
  uint32_t fwd_told;       /* the fwd_cnt the peer knows */
  uint32_t received_first; /* ring of bytes not looked at yet */
  uint32_t received_count;
  uint8_t received[TINY_RECEIVE_BYTES];
  uint32_t request_have; /* bytes of the current request seen, its length prefix included */
  uint32_t request_size; /* known when request_have >= 4 */
  uint8_t request[TINY_REQUEST_BYTES];
};

/* Where packets go. `room` is how many fit now; `send` is false when none does. */
struct tiny_output {
  uint32_t (*room)(void* context);
  bool (*send)(void* context, const struct tiny_packet* packet, const uint8_t* payload);
  void* context;
};

struct tiny_vsock {
  uint64_t cid;
  unsigned behaviour;
  struct tiny_output output;
  struct tiny_connection connections[TINY_CONNECTIONS];
};

/* Handles one received packet with `size` bytes behind its header. Sends at most one packet: call it only when there is
 * room for one. */
void tiny_vsock_receive(struct tiny_vsock* vsock, const struct tiny_packet* packet, const uint8_t* payload,
                        uint32_t size);
/* Works on what was received, as far as credit and output allow. */
enum tiny_action tiny_vsock_work(struct tiny_vsock* vsock);
/* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (virtio 1.2, 5.10.6.6): all connections are gone, the guest may have a new cid. */
void tiny_vsock_reset(struct tiny_vsock* vsock, uint64_t cid);

#ifdef __cplusplus
}
#endif
#endif
