/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/machine.h"

#include <stddef.h>

#include "tests/guest/boot_info.h"
#include "tests/guest/layout.h"

void tiny_doorbell(uint8_t value) { tiny_out(TINY_DOORBELL_PORT, value); }

void tiny_print(const char* text) {
  for (; *text != '\0'; ++text) tiny_out(TINY_SERIAL_PORT, (uint8_t)*text);
}

static _Noreturn void wait_for_the_end(void) {
  for (;;) __asm__ volatile("pause");
}

_Noreturn void tiny_triple_fault(void) {
  __asm__ volatile("ud2"); /* without an IDT */
  wait_for_the_end();
}

_Noreturn void tiny_power_off(void) {
  tiny_out(TINY_SLEEP_PORT, (uint8_t)(TINY_SLEEP_S5 << 2 | 1 << 5)); /* SLP_TYP, SLP_EN: ACPI 6.4, 4.8.3.7 */
  wait_for_the_end();
}

_Noreturn void tiny_reset(void) {
  tiny_out(TINY_RESET_PORT, TINY_RESET_VALUE);
  wait_for_the_end();
}

_Noreturn void tiny_keyboard_reset(void) {
  tiny_out(TINY_I8042_PORT, 0xfe);
  wait_for_the_end();
}

_Noreturn void tiny_panic(const char* why) {
  tiny_print("tiny guest: ");
  tiny_print(why);
  tiny_print("\n");
  tiny_out(TINY_PVPANIC_PORT, 1);
  wait_for_the_end();
}

const char* tiny_command_line(uint32_t start_info) {
  const struct tiny_start_info* info = (const struct tiny_start_info*)(uintptr_t)start_info;
  if (info == NULL || info->magic != TINY_START_INFO_MAGIC) tiny_panic("no PVH start info");
  return info->command_line != 0 ? (const char*)(uintptr_t)info->command_line : "";
}

/* The compiler asks for these by name, also of freestanding code (GCC manual, "Language Standards"). */
void* memcpy(void* restrict to, const void* restrict from, size_t n) {
  void* start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return start;
}

void* memset(void* to, int value, size_t n) {
  void* start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
  return start;
}
