/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/vsock.h"

#include <stddef.h>

#include "tests/guest/layout.h"

#define BOTH_DIRECTIONS (TINY_SHUTDOWN_RECEIVE | TINY_SHUTDOWN_SEND)

static struct tiny_packet packet_to(const struct tiny_vsock* vsock, uint32_t guest_port, uint32_t peer_port,
                                    uint16_t op) {
  const struct tiny_packet packet = {
      .src_cid = vsock->cid,
      .dst_cid = TINY_VSOCK_HOST_CID,
      .src_port = guest_port,
      .dst_port = peer_port,
      .type = TINY_TYPE_STREAM,
      .op = op,
  };
  return packet;
}

static bool send(struct tiny_vsock* vsock, struct tiny_connection* connection, uint16_t op, const uint8_t* payload,
                 uint32_t size) {
  struct tiny_packet packet = packet_to(vsock, TINY_VSOCK_PORT, connection->peer_port, op);
  packet.len = size;
  packet.buf_alloc = TINY_RECEIVE_BYTES;
  packet.fwd_cnt = connection->fwd_cnt;
  if (!vsock->output.send(vsock->output.context, &packet, payload)) return false;
  connection->fwd_told = connection->fwd_cnt;
  connection->tx_cnt += size;
  return true;
}

static void refuse(struct tiny_vsock* vsock, const struct tiny_packet* packet) {
  const struct tiny_packet reset = packet_to(vsock, packet->dst_port, packet->src_port, TINY_OP_RST);
  (void)vsock->output.send(vsock->output.context, &reset, NULL);
}

static void close_with_reset(struct tiny_vsock* vsock, struct tiny_connection* connection) {
  (void)send(vsock, connection, TINY_OP_RST, NULL, 0);
  connection->used = false;
}

static struct tiny_connection* find(struct tiny_vsock* vsock, uint32_t peer_port) {
  for (unsigned i = 0; i < TINY_CONNECTIONS; ++i) {
    struct tiny_connection* connection = &vsock->connections[i];
    if (connection->used && connection->peer_port == peer_port) return connection;
  }
  return NULL;
}

/* Field by field: a connection's buffers need no clearing, and pages not written stay the template's. */
static struct tiny_connection* open_connection(struct tiny_vsock* vsock, uint32_t peer_port) {
  for (unsigned i = 0; i < TINY_CONNECTIONS; ++i) {
    struct tiny_connection* connection = &vsock->connections[i];
    if (connection->used) continue;
    connection->used = true;
    connection->shutdown = 0;
    connection->peer_port = peer_port;
    connection->tx_cnt = connection->fwd_cnt = connection->fwd_told = 0;
    connection->received_first = connection->received_count = 0;
    connection->request_have = connection->request_size = 0;
    return connection;
  }
  return NULL;
}

static bool store(struct tiny_connection* connection, const uint8_t* payload, uint32_t size) {
  if (size > TINY_RECEIVE_BYTES - connection->received_count) return false; /* the peer ignored our credit */
  for (uint32_t i = 0; i < size; ++i) {
    connection->received[(connection->received_first + connection->received_count) % TINY_RECEIVE_BYTES] = payload[i];
    ++connection->received_count;
  }
  return true;
}

static void receive_request(struct tiny_vsock* vsock, const struct tiny_packet* packet, struct tiny_connection* known) {
  if (known != NULL) { /* an accepted connection cannot be asked for again */
    close_with_reset(vsock, known);
    return;
  }
  struct tiny_connection* connection = open_connection(vsock, packet->src_port);
  if (connection == NULL) {
    refuse(vsock, packet);
    return;
  }
  connection->peer_buf_alloc = packet->buf_alloc;
  connection->peer_fwd_cnt = packet->fwd_cnt;
  if (!send(vsock, connection, TINY_OP_RESPONSE, NULL, 0)) connection->used = false;
}

static void receive_on(struct tiny_vsock* vsock, struct tiny_connection* connection, const struct tiny_packet* packet,
                       const uint8_t* payload, uint32_t size) {
  connection->peer_buf_alloc = packet->buf_alloc;
  connection->peer_fwd_cnt = packet->fwd_cnt;
  switch (packet->op) {
    case TINY_OP_RW:
      if (packet->len != size || !store(connection, payload, size)) close_with_reset(vsock, connection);
      break;
    case TINY_OP_CREDIT_UPDATE:
      break;
    case TINY_OP_CREDIT_REQUEST:
      (void)send(vsock, connection, TINY_OP_CREDIT_UPDATE, NULL, 0);
      break;
    case TINY_OP_SHUTDOWN:
      connection->shutdown |= packet->flags;
      if ((connection->shutdown & BOTH_DIRECTIONS) == BOTH_DIRECTIONS) close_with_reset(vsock, connection);
      break;
    default:
      close_with_reset(vsock, connection);
      break;
  }
}

void tiny_vsock_receive(struct tiny_vsock* vsock, const struct tiny_packet* packet, const uint8_t* payload,
                        uint32_t size) {
  if (packet->dst_cid != vsock->cid || packet->src_cid != TINY_VSOCK_HOST_CID) return;
  const bool ours = packet->type == TINY_TYPE_STREAM && packet->dst_port == TINY_VSOCK_PORT;
  struct tiny_connection* connection = ours ? find(vsock, packet->src_port) : NULL;
  if (packet->op == TINY_OP_RST) {
    if (connection != NULL) connection->used = false;
  } else if (ours && packet->op == TINY_OP_REQUEST) {
    receive_request(vsock, packet, connection);
  } else if (connection != NULL) {
    receive_on(vsock, connection, packet, payload, size);
  } else {
    refuse(vsock, packet);
  }
}

/* Takes bytes of the current request: true when it is complete. What does not fit the buffer is counted, not kept. */
static bool gather_request(struct tiny_connection* connection) {
  while (connection->received_count > 0) {
    const uint8_t byte = connection->received[connection->received_first];
    connection->received_first = (connection->received_first + 1) % TINY_RECEIVE_BYTES;
    --connection->received_count;
    ++connection->fwd_cnt;
    const uint32_t at = connection->request_have++;
    if (at < 4) {
      connection->request_size |= (uint32_t)byte << (8 * at);
    } else if (at - 4 < TINY_REQUEST_BYTES) {
      connection->request[at - 4] = byte;
    }
    if (at < 3) continue;
    if (connection->request_size > TINY_REQUEST_LIMIT || connection->request_have - 4 == connection->request_size)
      return true;
  }
  return false;
}

static enum tiny_action finish_request(struct tiny_vsock* vsock, struct tiny_connection* connection) {
  struct tiny_reply reply;
  reply.size = 0;
  enum tiny_action action = TINY_GO_ON;
  if (connection->request_size > TINY_REQUEST_LIMIT) {
    close_with_reset(vsock, connection);
    return action;
  }
  if (connection->request_size > TINY_REQUEST_BYTES) {
    tiny_answer_too_long(&reply);
  } else {
    const struct tiny_span request = {connection->request, connection->request_size};
    action = tiny_answer(request, vsock->behaviour, &reply);
  }
  connection->request_have = connection->request_size = 0;
  if (reply.size > 0 && !send(vsock, connection, TINY_OP_RW, reply.bytes, reply.size))
    close_with_reset(vsock, connection);
  return action;
}

static uint32_t credit(const struct tiny_connection* connection) {
  const uint32_t in_flight = connection->tx_cnt - connection->peer_fwd_cnt;
  return in_flight < connection->peer_buf_alloc ? connection->peer_buf_alloc - in_flight : 0;
}

enum tiny_action tiny_vsock_work(struct tiny_vsock* vsock) {
  for (unsigned i = 0; i < TINY_CONNECTIONS; ++i) {
    struct tiny_connection* connection = &vsock->connections[i];
    if (!connection->used || connection->received_count == 0) continue;
    if (vsock->output.room(vsock->output.context) < 2) break; /* an answer and a credit update */
    /* A request is finished only when its answer can go out: one that waits costs the peer its credit, nobody else's.
     */
    if (credit(connection) < TINY_REPLY_BYTES) continue;
    if (gather_request(connection)) {
      const enum tiny_action action = finish_request(vsock, connection);
      if (action != TINY_GO_ON) return action;
    }
    const uint32_t untold = connection->fwd_cnt - connection->fwd_told;
    if (connection->used && untold >= TINY_RECEIVE_BYTES / 2)
      (void)send(vsock, connection, TINY_OP_CREDIT_UPDATE, NULL, 0);
  }
  return TINY_GO_ON;
}

void tiny_vsock_reset(struct tiny_vsock* vsock, uint64_t cid) {
  vsock->cid = cid;
  for (unsigned i = 0; i < TINY_CONNECTIONS; ++i) vsock->connections[i].used = false;
}
