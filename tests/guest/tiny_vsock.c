/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "tests/guest/layout.h"
#include "tests/guest/machine.h"
#include "tests/guest/vsock_device.h"

/* A guest that answers the host like granary-init does, as far as a clone's hand-over needs it, at CPL3 and without
 * interrupts. Its command line may make it misbehave: enum tiny_behaviour. */

void tiny_main(uint32_t start_info);

static struct tiny_device device __attribute__((aligned(4096)));

static uint32_t read_register(void* context, uint32_t offset) {
  (void)context;
  const volatile uint32_t* at = (const volatile uint32_t*)(uintptr_t)(TINY_VIRTIO_BASE + offset);
  uint32_t value;
  __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*at) : "memory");
  return value;
}

static void write_register(void* context, uint32_t offset, uint32_t value) {
  (void)context;
  volatile uint32_t* at = (volatile uint32_t*)(uintptr_t)(TINY_VIRTIO_BASE + offset);
  __asm__ volatile("movl %1, %0" : "=m"(*at) : "r"(value) : "memory");
}

void tiny_main(uint32_t start_info) {
  const unsigned behaviour = tiny_behaviour_of(tiny_command_line(start_info));
  tiny_doorbell(TINY_MARK_START);
  device.bus = (struct tiny_bus){.read = read_register, .write = write_register, .context = NULL, .memory = 0};
  device.vsock.behaviour = behaviour;
  const char* wrong = tiny_device_start(&device);
  if (wrong != NULL) tiny_panic(wrong);
  tiny_print("tiny-vsock: ready\n");
  if ((behaviour & TINY_NOT_READY) == 0) tiny_doorbell(TINY_BELL_READY);
  for (;;) {
    switch (tiny_device_poll(&device)) {
      case TINY_GO_ON:
        break;
      case TINY_POWER_OFF:
        tiny_power_off();
      case TINY_TRIPLE_FAULT:
        tiny_triple_fault();
    }
    if ((behaviour & TINY_FLOOD) != 0) tiny_print("tiny-vsock: flood flood flood flood flood flood flood flood\n");
  }
}
