// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

// A tiny AML writer (ACPI 6.4, section 20.2): each function returns the bytes of one term, terms are concatenated.
// Names and values come from this tree, never from a guest or a user, so nothing here can fail.
namespace granary::boot::aml {

using Bytes = std::string;

// A path of 4-character segments: "\\_SB_", "COM1" or "\\_SB_.VGEN".
Bytes path(std::string_view text);
Bytes integer(uint64_t value);
Bytes string(std::string_view text);
// A compressed EISA id such as "PNP0501".
Bytes eisa_id(std::string_view id);

Bytes name(std::string_view path_text, const Bytes& value);
Bytes package(std::initializer_list<Bytes> elements);
Bytes buffer(const Bytes& content);
Bytes scope(std::string_view path_text, const Bytes& content);
Bytes device(std::string_view path_text, const Bytes& content);
// Serialized, with 0 to 7 arguments.
Bytes method(std::string_view path_text, unsigned arguments, const Bytes& body);
// If (Arg0 == value) { body }
Bytes if_arg0_equals(uint64_t value, const Bytes& body);
Bytes notify(std::string_view path_text, uint64_t value);

// Resource descriptors (section 6.4), wrapped by resources() into the buffer that _CRS returns.
Bytes io_port(uint16_t first, uint8_t count);
Bytes memory32_fixed(uint32_t start, uint32_t size_bytes);
Bytes edge_interrupt(uint32_t gsi);  // active high, exclusive
Bytes resources(const Bytes& descriptors);

}  // namespace granary::boot::aml
