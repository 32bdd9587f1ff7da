/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/frame.h"

#include <stddef.h>

#include "tests/guest/boot_info.h"

/* Field numbers of guest.proto. */
enum { REQUEST_PROBE = 1, REQUEST_IDENTITY = 2, REQUEST_EXEC = 3, REQUEST_POWER_OFF = 8 };
enum { REPLY_READY = 1, REPLY_IDENTITY_APPLIED = 2, REPLY_FAILURE = 3 };
enum { FAILURE_INVALID = 3, FAILURE_IDENTITY = 4 };
enum { PROBE_NONCE = 1, READY_NONCE = 1, READY_PROTOCOL = 2, FAILURE_KIND = 1, FAILURE_MESSAGE = 2 };
enum { IDENTITY_UUID = 1, IDENTITY_ENTROPY = 2, IDENTITY_REALTIME = 3, APPLIED_UUID = 1, APPLIED_REALTIME = 3 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

#define UUID_BYTES 16u
#define MIN_ENTROPY_BYTES 32u

static bool take_varint(struct tiny_span* rest, uint64_t* value) {
  *value = 0;
  for (unsigned shift = 0; shift < 70 && rest->size > 0; shift += 7) {
    const uint8_t byte = *rest->at;
    ++rest->at;
    --rest->size;
    if (shift == 63 && byte > 1) return false; /* more than 64 bits */
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

static bool take_bytes(struct tiny_span* rest, uint64_t size, struct tiny_span* taken) {
  if (size > rest->size) return false;
  taken->at = rest->at;
  taken->size = (uint32_t)size;
  rest->at += size;
  rest->size -= (uint32_t)size;
  return true;
}

static bool take_fixed(struct tiny_span* rest, uint32_t size, uint64_t* value) {
  struct tiny_span bytes;
  if (!take_bytes(rest, size, &bytes)) return false;
  *value = 0;
  for (uint32_t i = 0; i < size; ++i) *value |= (uint64_t)bytes.at[i] << (8 * i);
  return true;
}

enum tiny_step tiny_next_field(struct tiny_span* rest, struct tiny_field* field) {
  if (rest->size == 0) return TINY_END;
  uint64_t tag = 0;
  if (!take_varint(rest, &tag) || tag > UINT32_MAX || tag >> 3 == 0) return TINY_MALFORMED;
  *field = (struct tiny_field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
  bool whole = false;
  uint64_t size = 0;
  switch (field->wire) {
    case WIRE_VARINT:
      whole = take_varint(rest, &field->value);
      break;
    case WIRE_64:
      whole = take_fixed(rest, 8, &field->value);
      break;
    case WIRE_32:
      whole = take_fixed(rest, 4, &field->value);
      break;
    case WIRE_BYTES:
      whole = take_varint(rest, &size) && take_bytes(rest, size, &field->bytes);
      break;
    default:
      break; /* groups are not part of proto3 */
  }
  return whole ? TINY_FIELD : TINY_MALFORMED;
}

/* The last field of this number and wire type, as protobuf wants it. False: the message is malformed. */
static bool find(struct tiny_span message, uint32_t number, uint32_t wire, struct tiny_field* found) {
  struct tiny_field field;
  *found = (struct tiny_field){0};
  for (;;) {
    switch (tiny_next_field(&message, &field)) {
      case TINY_END:
        return true;
      case TINY_MALFORMED:
        return false;
      case TINY_FIELD:
        break;
    }
    if (field.number == number && field.wire == wire) *found = field;
  }
}

/* A message being written, at the end of a frame's buffer. Nothing is written beyond it. */
static void put_byte(struct tiny_reply* reply, uint8_t byte) {
  if (reply->size < sizeof reply->bytes) reply->bytes[reply->size++] = byte;
}

static void put_varint(struct tiny_reply* reply, uint64_t value) {
  for (; value >= 0x80; value >>= 7) put_byte(reply, (uint8_t)(value | 0x80));
  put_byte(reply, (uint8_t)value);
}

static void put_number(struct tiny_reply* reply, uint32_t number, uint64_t value) {
  put_varint(reply, number << 3 | WIRE_VARINT);
  put_varint(reply, value);
}

static void put_bytes(struct tiny_reply* reply, uint32_t number, const uint8_t* bytes, uint32_t size) {
  put_varint(reply, number << 3 | WIRE_BYTES);
  put_varint(reply, size);
  for (uint32_t i = 0; i < size; ++i) put_byte(reply, bytes[i]);
}

/* The frame around a message of less than 128 - 6 bytes: its length, and its field of Reply. */
static void frame(struct tiny_reply* reply, uint32_t kind, const struct tiny_reply* message) {
  reply->size = 4;
  put_bytes(reply, kind, message->bytes, message->size);
  const uint32_t length = reply->size - 4;
  for (uint32_t i = 0; i < 4; ++i) reply->bytes[i] = (uint8_t)(length >> (8 * i));
}

static void put_failure(struct tiny_reply* reply, uint32_t kind, const char* text) {
  struct tiny_reply message = {.size = 0};
  uint32_t size = 0;
  while (text[size] != '\0' && size < 64) ++size;
  put_number(&message, FAILURE_KIND, kind);
  put_bytes(&message, FAILURE_MESSAGE, (const uint8_t*)text, size);
  frame(reply, REPLY_FAILURE, &message);
}

static void put_raw(struct tiny_reply* reply, uint32_t length) {
  reply->size = 0;
  for (uint32_t i = 0; i < 4; ++i) put_byte(reply, (uint8_t)(length >> (8 * i)));
  for (uint32_t i = 0; i < 64; ++i) put_byte(reply, 0xff); /* no varint ends in here */
}

static enum tiny_action answer_probe(struct tiny_span probe, unsigned behaviour, struct tiny_reply* reply) {
  struct tiny_field nonce;
  if (behaviour & TINY_DIE) return TINY_TRIPLE_FAULT;
  if (behaviour & TINY_MUTE) return TINY_GO_ON;
  if (!find(probe, PROBE_NONCE, WIRE_VARINT, &nonce)) {
    put_failure(reply, FAILURE_INVALID, "malformed probe");
  } else if (behaviour & (TINY_GARBAGE | TINY_LONG_FRAME)) {
    put_raw(reply, behaviour & TINY_GARBAGE ? 64 : UINT32_MAX);
  } else {
    struct tiny_reply ready = {.size = 0};
    put_number(&ready, READY_NONCE, behaviour & TINY_BAD_NONCE ? ~nonce.value : nonce.value);
    put_number(&ready, READY_PROTOCOL, 1);
    frame(reply, REPLY_READY, &ready);
  }
  return TINY_GO_ON;
}

static enum tiny_action answer_identity(struct tiny_span identity, unsigned behaviour, struct tiny_reply* reply) {
  struct tiny_field uuid, entropy, realtime;
  if (behaviour & TINY_DIE_ID) return TINY_TRIPLE_FAULT;
  if (behaviour & TINY_MUTE_ID) return TINY_GO_ON;
  if (!find(identity, IDENTITY_UUID, WIRE_BYTES, &uuid) || !find(identity, IDENTITY_ENTROPY, WIRE_BYTES, &entropy) ||
      !find(identity, IDENTITY_REALTIME, WIRE_VARINT, &realtime)) {
    put_failure(reply, FAILURE_INVALID, "malformed identity");
  } else if (behaviour & TINY_NO_IDENTITY) {
    put_failure(reply, FAILURE_IDENTITY, "asked to refuse the identity");
  } else if (uuid.bytes.size != UUID_BYTES) {
    put_failure(reply, FAILURE_IDENTITY, "clone_uuid is not 16 bytes");
  } else if (entropy.bytes.size < MIN_ENTROPY_BYTES) {
    put_failure(reply, FAILURE_IDENTITY, "entropy is less than 32 bytes");
  } else {
    struct tiny_reply applied = {.size = 0};
    put_bytes(&applied, APPLIED_UUID, uuid.bytes.at, UUID_BYTES);
    if (behaviour & TINY_WRONG_ID) applied.bytes[applied.size - 1] ^= 1;
    put_number(&applied, APPLIED_REALTIME, realtime.value); /* a tiny guest has no clock of its own */
    frame(reply, REPLY_IDENTITY_APPLIED, &applied);
  }
  return TINY_GO_ON;
}

enum tiny_action tiny_answer(struct tiny_span request, unsigned behaviour, struct tiny_reply* reply) {
  struct tiny_field field, kind = {0};
  reply->size = 0;
  enum tiny_step step;
  while ((step = tiny_next_field(&request, &field)) == TINY_FIELD) kind = field;
  if (step == TINY_MALFORMED || kind.number == 0) {
    put_failure(reply, FAILURE_INVALID, "malformed request");
    return TINY_GO_ON;
  }
  const bool is_message = kind.wire == WIRE_BYTES;
  if (is_message && kind.number == REQUEST_PROBE) return answer_probe(kind.bytes, behaviour, reply);
  if (is_message && kind.number == REQUEST_IDENTITY) return answer_identity(kind.bytes, behaviour, reply);
  if (is_message && kind.number == REQUEST_POWER_OFF) return TINY_POWER_OFF;
  /* What belongs to an exec has no answer of its own. */
  if (kind.number > REQUEST_EXEC && kind.number < REQUEST_POWER_OFF) return TINY_GO_ON;
  put_failure(reply, FAILURE_INVALID, "tiny guest");
  return TINY_GO_ON;
}

void tiny_answer_too_long(struct tiny_reply* reply) {
  put_failure(reply, FAILURE_INVALID, "tiny guest: request too long");
}

unsigned tiny_behaviour_of(const char* command_line) {
  static const char* const kWords[] = {"mute",    "garbage", "longframe", "badnonce", "noid",    "muteid",
                                       "wrongid", "die",     "dieid",     "flood",    "noready", "echo"};
  unsigned behaviour = 0;
  for (unsigned i = 0; i < sizeof kWords / sizeof kWords[0]; ++i) {
    if (tiny_option(command_line, kWords[i], NULL)) behaviour |= 1u << i;
  }
  return behaviour;
}
