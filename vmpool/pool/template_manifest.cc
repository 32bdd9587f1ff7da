// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/template_manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "vmpool/base/guest_memory.h"
#include "vmpool/pool/sha256.h"

namespace granary::pool {
namespace {

using Json = nlohmann::json;

constexpr int kIndent = 1;

Error corrupt(const std::string& what) { return {Errc::kSnapshotCorrupt, "template manifest: " + what}; }

// Values of a JSON object by name and type; the first that is missing or of another type is remembered.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  std::string text(const char* name) { return take<std::string>(name, &Json::is_string); }
  uint64_t number(const char* name) { return take<uint64_t>(name, &Json::is_number_unsigned); }
  double real(const char* name) { return take<double>(name, &Json::is_number); }
  const Json& array(const char* name) {
    static const Json kEmpty = Json::array();
    const auto found = object_.find(name);
    if (found != object_.end() && found->is_array()) return *found;
    fail(name);
    return kEmpty;
  }
  void fail(const char* name) {
    if (bad_.empty()) bad_ = name;
  }
  [[nodiscard]] const std::string& bad() const { return bad_; }

 private:
  template <class T>
  T take(const char* name, bool (Json::*is_right)() const noexcept) {
    const auto found = object_.find(name);
    if (found != object_.end() && ((*found).*is_right)()) return found->template get<T>();
    fail(name);
    return T{};
  }

  const Json& object_;
  std::string bad_;
};

std::vector<FileExtent> read_extents(Fields& fields) {
  std::vector<FileExtent> extents;
  const Json& list = fields.array("extents");
  if (list.size() > Manifest::kMaxExtents) fields.fail("extents");
  for (const Json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() || !pair[1].is_number_unsigned()) {
      fields.fail("extents");
      return {};
    }
    extents.push_back({pair[0].get<uint64_t>(), pair[1].get<uint64_t>()});
  }
  return extents;
}

Status check_values(const Manifest& manifest) {
  const uint64_t memory_bytes = manifest.info.memory_bytes;
  if (memory_bytes < kMinGuestMemory || memory_bytes > kMaxGuestMemory || memory_bytes % kPageSize != 0) {
    return corrupt("memory of " + std::to_string(memory_bytes) + " bytes");
  }
  if (manifest.info.state_bytes == 0 || manifest.info.state_bytes > Manifest::kMaxStateBytes) {
    return corrupt("state of " + std::to_string(manifest.info.state_bytes) + " bytes");
  }
  uint64_t end = 0;
  for (const FileExtent& extent : manifest.extents) {
    if (extent.offset < end || extent.offset > memory_bytes || extent.bytes == 0 ||
        extent.bytes > memory_bytes - extent.offset) {
      return corrupt("extent at " + std::to_string(extent.offset) + " of " + std::to_string(extent.bytes) + " bytes");
    }
    end = extent.offset + extent.bytes;
  }
  return ok();
}

Result<Manifest> read_body(const Json& body) {
  Fields fields(body);
  if (const uint64_t format = fields.number("format"); format != Manifest::kFormat) {
    return Error(Errc::kSnapshotVersion, "template manifest of format " + std::to_string(format) +
                                             ", this build knows " + std::to_string(Manifest::kFormat));
  }
  Manifest manifest;
  manifest.info.key = fields.text("key");
  manifest.info.inputs = fields.text("inputs");
  manifest.info.memory_bytes = fields.number("memory_bytes");
  manifest.info.populated_bytes = fields.number("populated_bytes");
  manifest.info.state_bytes = fields.number("state_bytes");
  manifest.info.created_unix_s = static_cast<int64_t>(fields.number("created_unix_s"));
  manifest.info.boot_seconds = fields.real("boot_seconds");
  manifest.state_sha256 = fields.text("state_sha256");
  manifest.memory_sha256 = fields.text("memory_sha256");
  manifest.extents = read_extents(fields);
  if (!fields.bad().empty()) return corrupt("field " + fields.bad());
  GRANARY_TRY(check_values(manifest));
  return manifest;
}

}  // namespace

std::string Manifest::to_json() const {
  Json list = Json::array();
  for (const FileExtent& extent : extents) list.push_back({extent.offset, extent.bytes});
  const Json body = {{"format", kFormat},
                     {"key", info.key},
                     {"inputs", info.inputs},
                     {"memory_bytes", info.memory_bytes},
                     {"populated_bytes", info.populated_bytes},
                     {"state_bytes", info.state_bytes},
                     {"created_unix_s", static_cast<uint64_t>(std::max<int64_t>(info.created_unix_s, 0))},
                     {"boot_seconds", info.boot_seconds},
                     {"state_sha256", state_sha256},
                     {"memory_sha256", memory_sha256},
                     {"extents", std::move(list)}};
  constexpr auto kReplace = Json::error_handler_t::replace;
  const std::string hash = sha256_of(body.dump(-1, ' ', false, kReplace));
  return Json{{"manifest", body}, {"sha256", hash}}.dump(kIndent, ' ', false, kReplace) + "\n";
}

Result<Manifest> Manifest::from_json(const std::string& text) {
  const Json file = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!file.is_object() || !file.contains("manifest") || !file["manifest"].is_object() || !file.contains("sha256")) {
    return corrupt("not the JSON object that it should be");
  }
  const Json& body = file["manifest"];
  if (file["sha256"] != sha256_of(body.dump(-1, ' ', false, Json::error_handler_t::replace))) {
    return corrupt("checksum mismatch");
  }
  Manifest manifest = GRANARY_TRY(read_body(body));
  // What JSON forgives (white space, spelling of numbers) is damage as well.
  if (manifest.to_json() != text) return corrupt("not written as Granary writes it");
  return manifest;
}

}  // namespace granary::pool
