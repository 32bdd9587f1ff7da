// SPDX-License-Identifier: Apache-2.0
#include "agent/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

namespace granary::agent {
namespace {

// Builds the tree from parser events, so that every limit holds while reading and no alias is ever expanded. The first
// refusal wins; later events are ignored (yaml-cpp offers no way to stop a parser but an exception).
class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::string name) : name_(std::move(name)) {}

  [[nodiscard]] const std::optional<Error>& refusal() const { return refusal_; }
  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) refuse(mark, "a second document; keep one document per file");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(mark, "", anchor, YamlNode::Kind::kNull, "");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "an alias (*name); write the value out instead");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    add(mark, tag, anchor, YamlNode::Kind::kScalar, text);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    add(mark, tag, anchor, YamlNode::Kind::kSequence, "");
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    add(mark, tag, anchor, YamlNode::Kind::kMap, "");
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    std::optional<YamlNode> key;  // of the entry being read, in a map
  };

  void refuse(const YAML::Mark& mark, const std::string& reason) {
    if (!refusal_) refusal_ = yaml_error(name_, mark.line + 1, mark.column + 1, reason);
  }

  void add(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlNode::Kind kind,
           const std::string& text) {
    if (refusal_) return;
    if (anchor != 0) return refuse(mark, "an anchor (&name); write the value out where it is needed");
    if (!tag.empty() && tag != "?" && tag != "!") return refuse(mark, "a tag (" + tag + "); remove it");
    if (++nodes_ > kMaxYamlNodes)
      return refuse(mark, "more than " + std::to_string(kMaxYamlNodes) + " values; shorten it");
    YamlNode node{.kind = kind,
                  .line = mark.line + 1,
                  .column = mark.column + 1,
                  .quoted = tag == "!",
                  .text = text,
                  .items = {},
                  .entries = {}};
    if (kind == YamlNode::Kind::kNull || kind == YamlNode::Kind::kScalar) return place(mark, std::move(node));
    if (open_.size() >= kMaxYamlDepth) {
      return refuse(mark, "nested deeper than " + std::to_string(kMaxYamlDepth) + " levels; flatten it");
    }
    open_.push_back({.node = std::move(node), .key = std::nullopt});
  }

  void close() {
    if (refusal_ || open_.empty()) return;
    YamlNode done = std::move(open_.back().node);
    open_.pop_back();
    YAML::Mark mark;
    mark.line = done.line - 1;
    mark.column = done.column - 1;
    place(mark, std::move(done));
  }

  void place(const YAML::Mark& mark, YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kSequence) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.key) {
      parent.node.entries.push_back({.key = *std::exchange(parent.key, std::nullopt), .value = std::move(node)});
    } else {
      set_key(mark, parent, std::move(node));
    }
  }

  void set_key(const YAML::Mark& mark, Open& parent, YamlNode key) {
    if (key.kind != YamlNode::Kind::kScalar) return refuse(mark, "a key that is not a plain word");
    const auto same =
        std::ranges::find_if(parent.node.entries, [&](const YamlEntry& entry) { return entry.key.text == key.text; });
    if (same != parent.node.entries.end()) {
      return refuse(mark, "duplicate key \"" + key.text + "\", first given in line " + std::to_string(same->key.line) +
                              "; keep one of them");
    }
    if (parent.node.entries.size() >= kMaxKeys) {
      return refuse(mark, "more than " + std::to_string(kMaxKeys) + " keys in one map; shorten it");
    }
    parent.key = std::move(key);
  }

  static constexpr size_t kMaxKeys = 256;  // keeps the search for duplicates short

  std::string name_;
  std::optional<Error> refusal_;
  int documents_ = 0;
  size_t nodes_ = 0;
  YamlNode root_;
  std::vector<Open> open_;
};

}  // namespace

const char* to_string(YamlNode::Kind kind) {
  switch (kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return "a single value";
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
  }
  return "nothing";
}

Error yaml_error(const std::string& name, int line, int column, const std::string& reason) {
  return {Errc::kConfigInvalid, name + ":" + std::to_string(line) + ":" + std::to_string(column) + ": " + reason};
}

Result<YamlNode> parse_yaml(std::string_view text, const std::string& name) {
  if (text.size() > kMaxYamlBytes) {
    return yaml_error(name, 1, 1,
                      "the file has " + std::to_string(text.size()) + " bytes, the limit is " +
                          std::to_string(kMaxYamlBytes) + "; shorten it");
  }
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    const auto line = std::ranges::count(text.substr(0, nul), '\n') + 1;
    return yaml_error(name, static_cast<int>(line), 1, "a zero byte; is this a YAML text file?");
  }
  TreeBuilder builder(name);
  // The library's exceptions end here: nothing above sees them.
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
      if (builder.refusal()) return Error(*builder.refusal());
    }
  } catch (const YAML::Exception& e) {
    if (builder.refusal()) return Error(*builder.refusal());
    return yaml_error(name, std::max(e.mark.line, 0) + 1, std::max(e.mark.column, 0) + 1,
                      "not valid YAML: " + e.msg + "; check indentation and quotes");
  } catch (const std::exception& e) {
    return yaml_error(name, 1, 1, std::string("not valid YAML: ") + e.what());
  }
  return builder.take_root();
}

}  // namespace granary::agent
