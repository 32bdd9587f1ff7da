/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/boot_info.h"

#include <stddef.h>

#define LIMIT 2048
#define LOW_MEMORY_END 0xc0000000ull

uint64_t tiny_memory_end(const struct tiny_memory_map_entry* map, uint32_t entries, uint64_t address) {
  for (uint32_t i = 0; i < entries && i < 128; ++i) {
    if (map[i].type != 1 || address < map[i].start || address - map[i].start >= map[i].size_bytes) continue;
    const uint64_t end = map[i].start + map[i].size_bytes;
    return end < map[i].start || end > LOW_MEMORY_END ? LOW_MEMORY_END : end;
  }
  return 0;
}

static bool ends_word(char c) { return c == '\0' || c == ' ' || c == '\t' || c == '\n'; }

bool tiny_option(const char* command_line, const char* name, const char** value) {
  if (command_line == NULL) return false;
  bool word_begins = true;
  for (size_t at = 0; at < LIMIT && command_line[at] != '\0'; ++at) {
    if (word_begins) {
      size_t n = 0;
      while (name[n] != '\0' && at + n < LIMIT && command_line[at + n] == name[n]) ++n;
      if (name[n] == '\0' && (ends_word(command_line[at + n]) || command_line[at + n] == '=')) {
        if (value != NULL) *value = command_line + at + n + (command_line[at + n] == '=' ? 1 : 0);
        return true;
      }
    }
    word_begins = ends_word(command_line[at]);
  }
  return false;
}

bool tiny_option_is(const char* command_line, const char* name, const char* value) {
  const char* given = NULL;
  if (!tiny_option(command_line, name, &given)) return false;
  size_t n = 0;
  while (value[n] != '\0' && given[n] == value[n]) ++n;
  return value[n] == '\0' && ends_word(given[n]);
}

uint32_t tiny_option_number(const char* command_line, const char* name, uint32_t otherwise) {
  const char* digits = NULL;
  if (!tiny_option(command_line, name, &digits) || ends_word(*digits)) return otherwise;
  uint64_t number = 0;
  for (; !ends_word(*digits); ++digits) {
    if (*digits < '0' || *digits > '9') return otherwise;
    number = number * 10 + (uint64_t)(*digits - '0');
    if (number > UINT32_MAX) return otherwise;
  }
  return (uint32_t)number;
}
