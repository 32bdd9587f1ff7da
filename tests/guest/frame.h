/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_FRAME_H
#define GRANARY_TESTS_GUEST_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The guest's side of vmpool/guest/guest.proto, for Probe and Identity, without a protobuf library. Plain functions
 * over bounded buffers: they compile into the tiny guest and into its unit test. */

#define TINY_REQUEST_BYTES 1024          /* longer requests are answered with Failure */
#define TINY_REQUEST_LIMIT (1024 * 1024) /* longer ones break the protocol */
#define TINY_REPLY_BYTES 128             /* length prefix included */

/* One protobuf field (protobuf encoding guide: wire types 0, 1, 2, 5). */
struct tiny_span {
  const uint8_t* at;
  uint32_t size;
};
struct tiny_field {
  uint32_t number;
  uint32_t wire;
  uint64_t value;         /* wire types 0, 1, 5 */
  struct tiny_span bytes; /* wire type 2 */
};
enum tiny_step { TINY_END, TINY_FIELD, TINY_MALFORMED };
/* Takes the next field off the front of `rest`. After TINY_MALFORMED `rest` is of no use. */
enum tiny_step tiny_next_field(struct tiny_span* rest, struct tiny_field* field);

/* What a guest does besides, mostly wrong: words of the command line. */
enum tiny_behaviour {
  TINY_MUTE = 1 << 0,        /* mute: never answers the probe */
  TINY_GARBAGE = 1 << 1,     /* garbage: answers the probe with bytes that are no protobuf */
  TINY_LONG_FRAME = 1 << 2,  /* longframe: answers the probe with a length of 4 GiB - 1 */
  TINY_BAD_NONCE = 1 << 3,   /* badnonce: answers the probe with another nonce */
  TINY_NO_IDENTITY = 1 << 4, /* noid: answers the identity with Failure */
  TINY_MUTE_ID = 1 << 5,     /* muteid: never answers the identity */
  TINY_WRONG_ID = 1 << 6,    /* wrongid: acknowledges another clone UUID */
  TINY_DIE = 1 << 7,         /* die: triple fault on the probe */
  TINY_DIE_ID = 1 << 8,      /* dieid: triple fault on the identity */
  TINY_FLOOD = 1 << 9,       /* flood: writes to the serial port for ever, once ready */
  TINY_NOT_READY = 1 << 10,  /* noready: never rings the ready doorbell */
  TINY_ECHO = 1 << 11,       /* echo: not misbehaviour: sends back each frame of its first network card */
};
unsigned tiny_behaviour_of(const char* command_line);

struct tiny_reply {
  uint8_t bytes[TINY_REPLY_BYTES];
  uint32_t size; /* 0: nothing to send */
};
enum tiny_action { TINY_GO_ON, TINY_POWER_OFF, TINY_TRIPLE_FAULT };

/* What to do about one request (without its length prefix). `reply` gets the whole frame to send. */
enum tiny_action tiny_answer(struct tiny_span request, unsigned behaviour, struct tiny_reply* reply);
/* The Failure for a request of more than TINY_REQUEST_BYTES. */
void tiny_answer_too_long(struct tiny_reply* reply);

#ifdef __cplusplus
}
#endif
#endif
