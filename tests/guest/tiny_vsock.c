/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "tests/guest/echo_device.h"
#include "tests/guest/layout.h"
#include "tests/guest/machine.h"
#include "tests/guest/vsock_device.h"

/* A guest that answers the host like granary-init does, as far as a clone's hand-over needs it, at CPL3 and without
 * interrupts. Its command line may make it misbehave, or echo frames: enum tiny_behaviour. */

void tiny_main(uint32_t start_info);

static struct tiny_device device __attribute__((aligned(4096)));
static struct tiny_echo echo __attribute__((aligned(4096)));

static uint32_t read_register(void* slot, uint32_t offset) {
  const volatile uint32_t* at = (const volatile uint32_t*)((uintptr_t)slot + offset);
  uint32_t value;
  __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*at) : "memory");
  return value;
}

static void write_register(void* slot, uint32_t offset, uint32_t value) {
  volatile uint32_t* at = (volatile uint32_t*)((uintptr_t)slot + offset);
  __asm__ volatile("movl %1, %0" : "=m"(*at) : "r"(value) : "memory");
}

static struct tiny_bus bus_of_slot(uint32_t slot) {
  return (struct tiny_bus){.read = read_register,
                           .write = write_register,
                           .context = (void*)(uintptr_t)(TINY_VIRTIO_BASE + slot * TINY_VIRTIO_STRIDE),
                           .memory = 0};
}

/* Devices have no gaps between them. */
static const char* start_echo(void) {
  for (uint32_t slot = 1; slot < TINY_VIRTIO_SLOTS; ++slot) {
    echo.bus = bus_of_slot(slot);
    if (tiny_virtio_id(&echo.bus) == 0) break;
    if (!tiny_echo_finds_device(&echo.bus)) continue;
    echo.buffers = (uint8_t*)(uintptr_t)TINY_FILL_ADDRESS;
    return tiny_echo_start(&echo);
  }
  return "echo without a network card";
}

void tiny_main(uint32_t start_info) {
  const unsigned behaviour = tiny_behaviour_of(tiny_command_line(start_info));
  tiny_doorbell(TINY_MARK_START);
  device.bus = bus_of_slot(0);
  device.vsock.behaviour = behaviour;
  const char* wrong = tiny_device_start(&device);
  if (wrong == NULL && (behaviour & TINY_ECHO) != 0) wrong = start_echo();
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
    if ((behaviour & TINY_ECHO) != 0) tiny_echo_poll(&echo);
    if ((behaviour & TINY_FLOOD) != 0) tiny_print("tiny-vsock: flood flood flood flood flood flood flood flood\n");
  }
}
