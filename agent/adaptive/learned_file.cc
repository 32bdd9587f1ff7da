// SPDX-License-Identifier: Apache-2.0
#include "agent/adaptive/learned_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "agent/adaptive/pricing.h"
#include "vmpool/base/fd.h"

namespace granary::adaptive {
namespace {

using nlohmann::json;

constexpr size_t kMostBytes = 32 << 20;
constexpr size_t kMostPools = 1024;
constexpr size_t kMostNameBytes = 128;
constexpr double kMostNumber = 1e12;

uint32_t checksum(std::string_view text) {
  return static_cast<uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
}

// Thousandths are enough, and shorter.
json rounded(const std::vector<float>& numbers) {
  json list = json::array();
  for (const float n : numbers) list.push_back(std::round(static_cast<double>(n) * 1000) / 1000);
  return list;
}

json to_json(const std::string& pool, const Learned& learned, double wall) {
  json demands = json::array();
  for (size_t i = 0; i < learned.demands.size(); ++i) {
    const Demand& demand = learned.demands[i];
    if (demand.seconds <= 0 && demand.asked.empty()) continue;
    demands.push_back({i, std::round(demand.seconds * 1000) / 1000, rounded(demand.asked)});
  }
  return {{"format", 1},
          {"pool", pool},
          {"saved", wall},
          {"demands", demands},
          {"rates", learned.rates},
          {"hour", rounded(learned.hour)},
          {"day", rounded(learned.day)},
          {"refill_seconds", learned.refill_seconds},
          {"hits", learned.hits},
          {"misses", learned.misses},
          {"price", learned.price},
          {"aim", learned.aim},
          {"steady", learned.steady},
          {"tells_apart", learned.tells_apart},
          {"wish", learned.wish}};
}

// Reads members of one object; the first that is missing or out of bounds is remembered.
class Reader {
 public:
  explicit Reader(const json& object) : object_(object) {}

  double number(const char* key, double least, double most) {
    const auto found = object_.find(key);
    if (found == object_.end()) return refuse(key);
    return checked(*found, key, least, most);
  }
  bool flag(const char* key) {
    const auto found = object_.find(key);
    if (found == object_.end() || !found->is_boolean()) return refuse(key) != 0;
    return found->get<bool>();
  }
  std::vector<float> list(const json& from, const char* key, size_t most_items, double most) {
    std::vector<float> numbers;
    if (!from.is_array() || from.size() > most_items) {
      refuse(key);
      return numbers;
    }
    for (const json& item : from) numbers.push_back(static_cast<float>(checked(item, key, 0, most)));
    return numbers;
  }
  const json& member(const char* key) {
    static const json kNothing;
    const auto found = object_.find(key);
    return found == object_.end() ? kNothing : *found;
  }
  double checked(const json& value, const char* key, double least, double most) {
    if (!value.is_number()) return refuse(key);
    const auto number = value.get<double>();
    if (!std::isfinite(number) || number < least || number > most) return refuse(key);
    return number;
  }
  double refuse(const char* key) {
    if (wrong_.empty()) wrong_ = key;
    return 0;
  }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

 private:
  const json& object_;
  std::string wrong_;
};

std::vector<Demand> read_demands(Reader& reader) {
  std::vector<Demand> demands(kSituations);
  const json& list = reader.member("demands");
  if (!list.is_array() || list.size() > kSituations) {
    reader.refuse("demands");
    return demands;
  }
  for (const json& item : list) {
    if (!item.is_array() || item.size() != 3) {
      reader.refuse("demands");
      return demands;
    }
    Demand& demand = demands[static_cast<size_t>(reader.checked(item[0], "demands", 0, kSituations - 1))];
    demand.seconds = reader.checked(item[1], "demands", 0, kMostNumber);
    demand.asked = reader.list(item[2], "demands", kSteps, kMostNumber);
  }
  return demands;
}

// 0: not known yet.
double number_or_none(Reader& reader, const char* key, double least, double most) {
  const double number = reader.number(key, 0, most);
  return number == 0 ? 0 : reader.number(key, least, most);
}

Result<std::pair<std::string, Learned>> from_json(const json& object, double wall) {
  if (!object.is_object()) return Error(Errc::kInvalidArgument, "no object");
  Reader reader(object);
  reader.number("format", 1, 1);
  Learned learned;
  learned.demands = read_demands(reader);
  const double passed = std::max(0.0, wall - reader.number("saved", 0, kMostNumber));
  const std::vector<float> rates = reader.list(reader.member("rates"), "rates", kAverages.size(), kMostNumber);
  if (rates.size() != kAverages.size()) reader.refuse("rates");
  for (size_t i = 0; i < rates.size(); ++i) learned.rates[i] = rates[i] * std::exp(-passed / kAverages[i]);
  learned.hour = reader.list(reader.member("hour"), "hour", kHourSlots, 1);
  learned.day = reader.list(reader.member("day"), "day", kDaySlots, 1);
  learned.refill_seconds = number_or_none(reader, "refill_seconds", kLeastRefillSeconds, kMostRefillSeconds);
  learned.hits = reader.number("hits", 0, kMostNumber);
  learned.misses = reader.number("misses", 0, kMostNumber);
  learned.price = number_or_none(reader, "price", kLeastPrice, kMostPrice + 1);
  learned.aim = number_or_none(reader, "aim", 0.01, 1);
  learned.steady = static_cast<uint32_t>(reader.number("steady", 0, RefillQueue::kMost));
  learned.tells_apart = reader.flag("tells_apart");
  learned.wish = static_cast<uint32_t>(reader.number("wish", 0, RefillQueue::kMost));
  const json& name = reader.member("pool");
  if (!name.is_string() || name.get_ref<const std::string&>().size() > kMostNameBytes) reader.refuse("pool");
  if (!reader.wrong().empty()) return Error(Errc::kInvalidArgument, "\"" + reader.wrong() + "\" cannot be so");
  return std::pair(name.get<std::string>(), std::move(learned));
}

Result<std::pair<std::string, Learned>> parse_line(std::string_view line, double wall) {
  constexpr size_t kSumDigits = 8;
  uint32_t sum = 0;
  const bool cut = line.size() <= kSumDigits || line[kSumDigits] != ' ';
  const auto parsed = cut ? std::from_chars_result{} : std::from_chars(line.data(), line.data() + kSumDigits, sum, 16);
  if (cut || parsed.ptr != line.data() + kSumDigits) return Error(Errc::kInvalidArgument, "no checksum");
  const std::string_view text = line.substr(kSumDigits + 1);
  if (checksum(text) != sum) return Error(Errc::kInvalidArgument, "wrong checksum");
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return Error(Errc::kInvalidArgument, "no JSON");
  return from_json(object, wall);
}

}  // namespace

std::string to_text(const LearnedPools& pools, double wall) {
  std::string text;
  for (const auto& [name, learned] : pools) {
    const std::string object = to_json(name, learned, wall).dump(-1, ' ', false, json::error_handler_t::replace);
    char sum[16];
    std::snprintf(sum, sizeof(sum), "%08x ", checksum(object));
    text += sum + object + "\n";
  }
  return text;
}

LoadedPools parse_learned(std::string_view text, double wall) {
  LoadedPools loaded;
  for (size_t number = 1; !text.empty() && number <= kMostPools; ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    auto pool = parse_line(text.substr(0, end), wall);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (pool) {
      loaded.pools.insert(*std::move(pool));
    } else {
      loaded.refused.push_back("line " + std::to_string(number) + ": " + pool.error().context());
    }
  }
  return loaded;
}

Status save_learned(const std::string& path, const LearnedPools& pools, double wall) {
  const std::string text = to_text(pools, wall);
  const std::string fresh = path + ".new";
  const Fd file = GRANARY_TRY(open_file(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  GRANARY_TRY(write_all(file.get(), std::as_bytes(std::span(text))));
  if (::fsync(file.get()) != 0) return Error::last_os_error("fsync " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return Error::last_os_error("rename " + fresh);
  return ok();
}

Result<LoadedPools> load_learned(const std::string& path, double wall) {
  const auto text = read_file(path, kMostBytes);
  if (!text && text.error().is_errno(ENOENT)) return LoadedPools();
  if (!text) return text.error();
  return parse_learned(*text, wall);
}

}  // namespace granary::adaptive
