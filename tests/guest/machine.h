/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_MACHINE_H
#define GRANARY_TESTS_GUEST_MACHINE_H

#include <stdint.h>

/* What a tiny guest's C code does to the machine it runs on; only in guests, at CPL3. */

/* In start.S: CPL3 may not use ports on every KVM, so CPL0 does it. */
void tiny_out(uint16_t port, uint8_t value);
void tiny_doorbell(uint8_t value);
/* Text to COM1, byte by byte; the emulated UART is always ready. */
void tiny_print(const char* text);

/* How a machine ends; none of them comes back. */
_Noreturn void tiny_triple_fault(void);
_Noreturn void tiny_power_off(void);
_Noreturn void tiny_reset(void);
_Noreturn void tiny_keyboard_reset(void);
_Noreturn void tiny_panic(const char* why);

/* Written to the start info's address by start.S; the command line, never null. */
const char* tiny_command_line(uint32_t start_info);

#endif
