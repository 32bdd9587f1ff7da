/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/boot_info.h"
#include "tests/guest/layout.h"
#include "tests/guest/machine.h"

/* A guest without devices, for tests of the VMM, of snapshots and for benchmarks. Command line:
 *   fill=MIB        writes a pattern to so many MiB from TINY_FILL_ADDRESS on, before it is ready
 *   mode=count      (default) counts in memory until its VM generation id changes, then rings TINY_MARK_RESTORED and
 * goes on mode=verify     checks the pattern after the restore and rings TINY_MARK_VERIFIED or TINY_MARK_DAMAGED
 *   dirty=MIB       after the restore, writes one word to each page of so many MiB (0: all memory), rings
 * TINY_MARK_DIRTIED mode=triple|s5|reset|keyboard|panic   ends that way; at once, or after the restore with at=restore
 * It counts at CPL3 and causes no exits while it does. */

#define PAGE 4096u
#define MIB (1024u * 1024u)
#define PATTERN 0x5bd1e995u

void tiny_main(uint32_t start_info);

struct generation {
  uint64_t low, high;
};

static struct generation read_generation(void) {
  const volatile uint64_t* words = (const volatile uint64_t*)(uintptr_t)TINY_VMGENID_ADDRESS;
  const struct generation now = {words[0], words[1]};
  return now;
}

static bool same_generation(struct generation a, struct generation b) { return a.low == b.low && a.high == b.high; }

static uint64_t fill_end(uint64_t memory_end, uint32_t mib) {
  const uint64_t end = TINY_FILL_ADDRESS + (uint64_t)mib * MIB;
  return end < memory_end ? end : memory_end;
}

/* One word a page, each page its own. */
static void write_pages(uint64_t end, uint32_t seed) {
  for (uint64_t at = TINY_FILL_ADDRESS; at + PAGE <= end; at += PAGE) {
    *(volatile uint64_t*)(uintptr_t)at = at * PATTERN + seed;
  }
}

static bool pages_hold(uint64_t end, uint32_t seed) {
  for (uint64_t at = TINY_FILL_ADDRESS; at + PAGE <= end; at += PAGE) {
    if (*(volatile uint64_t*)(uintptr_t)at != at * PATTERN + seed) return false;
  }
  return true;
}

static void end_as_asked(const char* options) {
  if (tiny_option_is(options, "mode", "triple")) tiny_triple_fault();
  if (tiny_option_is(options, "mode", "s5")) tiny_power_off();
  if (tiny_option_is(options, "mode", "reset")) tiny_reset();
  if (tiny_option_is(options, "mode", "keyboard")) tiny_keyboard_reset();
  if (tiny_option_is(options, "mode", "panic")) tiny_panic("asked to panic");
}

static void after_restore(const char* options, uint64_t memory_end) {
  const uint32_t fill = tiny_option_number(options, "fill", 0);
  tiny_doorbell(TINY_MARK_RESTORED);
  if (tiny_option_is(options, "mode", "verify")) {
    tiny_doorbell(pages_hold(fill_end(memory_end, fill), 1) ? TINY_MARK_VERIFIED : TINY_MARK_DAMAGED);
  }
  const uint32_t dirty = tiny_option_number(options, "dirty", UINT32_MAX);
  if (dirty != UINT32_MAX) {
    write_pages(dirty == 0 ? memory_end : fill_end(memory_end, dirty), 2);
    tiny_doorbell(TINY_MARK_DIRTIED);
  }
  end_as_asked(options);
}

void tiny_main(uint32_t start_info) {
  const struct tiny_start_info* info = (const struct tiny_start_info*)(uintptr_t)start_info;
  const char* options = tiny_command_line(start_info);
  const uint64_t memory_end = tiny_memory_end((const struct tiny_memory_map_entry*)(uintptr_t)info->memory_map,
                                              info->version >= 1 ? info->memory_map_entries : 0, TINY_FILL_ADDRESS);
  tiny_doorbell(TINY_MARK_START);
  tiny_print("tiny-counter: ");
  tiny_print(options);
  tiny_print("\n");
  write_pages(fill_end(memory_end, tiny_option_number(options, "fill", 0)), 1);
  if (!tiny_option_is(options, "at", "restore")) end_as_asked(options);
  /* Before the doorbell: a snapshot may be taken at that very instruction, and its clones begin right after it. */
  struct generation known = read_generation();
  tiny_doorbell(TINY_BELL_READY);

  volatile uint64_t* counter = (volatile uint64_t*)(uintptr_t)TINY_COUNTER_ADDRESS;
  for (;;) {
    *counter = *counter + 1;
    const struct generation now = read_generation();
    if (same_generation(now, known)) continue;
    known = now;
    after_restore(options, memory_end);
  }
}
