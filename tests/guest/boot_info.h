/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GRANARY_TESTS_GUEST_BOOT_INFO_H
#define GRANARY_TESTS_GUEST_BOOT_INFO_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The start info of the PVH boot protocol (Xen: public/arch-x86/hvm/start_info.h, version 1). */
struct tiny_start_info {
  uint32_t magic; /* TINY_START_INFO_MAGIC */
  uint32_t version;
  uint32_t flags;
  uint32_t module_count;
  uint64_t modules;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
struct tiny_memory_map_entry {
  uint64_t start;
  uint64_t size_bytes;
  uint32_t type; /* 1: RAM */
  uint32_t reserved;
};
#define TINY_START_INFO_MAGIC 0x336ec578u

/* The end of the RAM that contains `address`, at most 3 GiB; 0 when no entry does. */
uint64_t tiny_memory_end(const struct tiny_memory_map_entry* map, uint32_t entries, uint64_t address);

/* Is there a word `name`, or `name=…`, in the command line? The part behind '=' is given back in `value` (empty without
 * '=') and ends at the next blank. Only the first 2048 characters count. */
bool tiny_option(const char* command_line, const char* name, const char** value);
/* Is the option there with exactly this value? */
bool tiny_option_is(const char* command_line, const char* name, const char* value);
/* The option's value as a decimal number; `otherwise` when it is absent or not a number below 2^32. */
uint32_t tiny_option_number(const char* command_line, const char* name, uint32_t otherwise);

#ifdef __cplusplus
}
#endif
#endif
