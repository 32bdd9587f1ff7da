// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "agent/sim/report.h"

namespace granary::sim {
namespace {

constexpr double kWidth = 760;
constexpr double kPanelHeight = 190;
constexpr double kLeft = 64;
constexpr double kGap = 66;
constexpr double kTop = 44;
constexpr size_t kColumns = 240;  // of what is shown over time

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}
std::string at(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", value);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : static_cast<unsigned char>(c) < 0x20 ? " " : std::string(1, c);
  }
  return out;
}

std::string label(double x, double y, const std::string& text, const char* anchor = "middle") {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" text-anchor=\"" + anchor + "\">" + escaped(text) + "</text>\n";
}

// A square of the picture with its own scales.
class Panel {
 public:
  Panel(double top, double most_x, double least_y, double most_y, bool logarithmic)
      : top_(top), most_x_(std::max(most_x, 1e-9)), least_y_(least_y), most_y_(most_y), logarithmic_(logarithmic) {}

  [[nodiscard]] double x(double value) const { return kLeft + value / most_x_ * (kWidth - kLeft - 20); }
  [[nodiscard]] double y(double value) const {
    value = std::clamp(value, least_y_, most_y_);
    const double part = logarithmic_ ? std::log(value / least_y_) / std::log(most_y_ / least_y_)
                                     : (value - least_y_) / (most_y_ - least_y_);
    return top_ + kPanelHeight * (1 - part);
  }
  [[nodiscard]] std::string axes(const std::string& x_name, const std::string& y_name) const {
    std::string text = "<path class=\"axis\" d=\"M" + at(kLeft) + " " + at(top_) + "V" + at(top_ + kPanelHeight) + "H" +
                       at(kWidth - 20) + "\"/>\n" + label(kLeft, top_ - 8, y_name, "start") +
                       label(kWidth - 20, top_ + kPanelHeight + 32, x_name, "end");
    for (int i = 0; i <= 4; ++i) {
      const double value = most_x_ * i / 4;
      text += label(x(value), top_ + kPanelHeight + 16, number(value));
    }
    for (int i = 0; i <= 2; ++i) {
      const double value =
          logarithmic_ ? least_y_ * std::pow(most_y_ / least_y_, i / 2.0) : least_y_ + (most_y_ - least_y_) * i / 2;
      text += label(kLeft - 6, y(value) + 4, number(value), "end");
    }
    return text;
  }
  [[nodiscard]] std::string line(const char* css, const std::vector<std::pair<double, double>>& points) const {
    std::string path;
    for (const auto& [px, py] : points) path += (path.empty() ? "M" : "L") + at(x(px)) + " " + at(y(py));
    return std::string("<path class=\"") + css + "\" d=\"" + path + "\"/>\n";
  }
  [[nodiscard]] std::string dot(const char* css, double px, double py, const std::string& name) const {
    return std::string("<circle class=\"") + css + "\" cx=\"" + at(x(px)) + "\" cy=\"" + at(y(py)) + "\" r=\"5\"/>\n" +
           label(x(px) + 9, y(py) + 15, name, "start");
  }

 private:
  double top_, most_x_, least_y_, most_y_;
  bool logarithmic_;
};

std::string trade_off(const Comparison& comparison) {
  const auto share = [](const Outcome& o) { return 100 * (1 - o.hit_rate()); };
  const auto best = static_cast<double>(judge(comparison).best_fixed.value_or(0));
  const double idle = std::max({comparison.adaptive.mean_idle(), comparison.autoscaler.mean_idle(), best + 1});
  const double most_idle = std::ceil(idle * 1.1 / 4) * 4;
  std::vector<std::pair<double, double>> curve;
  double least = share(comparison.adaptive);
  for (const Outcome& outcome : comparison.fixed) {
    if (outcome.mean_idle() > most_idle) continue;
    curve.emplace_back(outcome.mean_idle(), share(outcome));
    if (outcome.misses() > 0) least = std::min(least, share(outcome));
  }
  // Whole powers of ten; what misses nothing stands on the axis.
  const double floor = std::pow(10, 2 * std::floor(std::log10(std::clamp(least, 1e-3, 50.0)) / 2));
  const Panel panel(kTop, most_idle, std::min(floor, 1.0), 100, true);
  std::string text =
      panel.axes("idle clones, mean", "misses, % of acquires (logarithmic)") + panel.line("fixed", curve);
  for (const auto& [x, y] : curve) {
    text += "<circle class=\"fixed-dot\" cx=\"" + at(panel.x(x)) + "\" cy=\"" + at(panel.y(y)) + "\" r=\"2\"/>\n";
  }
  if (!curve.empty()) {
    const auto& [x, y] = curve[curve.size() * 2 / 3];
    text += label(panel.x(x) + 6, panel.y(y) - 6, "fixed sizes", "start");
  }
  return text + panel.dot("autoscaler", comparison.autoscaler.mean_idle(), share(comparison.autoscaler), "autoscaler") +
         panel.dot("adaptive", comparison.adaptive.mean_idle(), share(comparison.adaptive), "adaptive");
}

// For each column of the picture the mean size, and the acquires per second.
std::string over_time(const Comparison& comparison, const Trace& trace) {
  const double seconds = std::max(comparison.adaptive.seconds, 1e-9);
  const double width = seconds / kColumns;
  std::vector<double> size(kColumns);
  std::vector<double> rate(kColumns);
  const auto& sizes = comparison.adaptive.sizes;
  for (size_t i = 0, next = 0; i < kColumns; ++i) {
    const double end = width * static_cast<double>(i + 1);
    while (next + 1 < sizes.size() && sizes[next + 1].first <= end)
      size[i] = std::max<double>(size[i], sizes[++next].second);
    size[i] = std::max<double>(size[i], sizes[next].second);
  }
  for (const double t : trace) rate[std::min(kColumns - 1, static_cast<size_t>(t / width))] += 1 / width;
  const double most_size = std::max(*std::ranges::max_element(size), 1.0);
  const double most_rate = std::max(*std::ranges::max_element(rate), 1e-9);
  std::vector<std::pair<double, double>> size_line;
  std::vector<std::pair<double, double>> rate_line;
  for (size_t i = 0; i < kColumns; ++i) {
    const double hour = width * static_cast<double>(i) / 3600;
    size_line.emplace_back(hour, size[i]);
    rate_line.emplace_back(hour, rate[i] / most_rate * most_size);
  }
  const Panel panel(kTop + kPanelHeight + kGap, seconds / 3600, 0, most_size, false);
  return panel.axes("hours", "adaptive: idle clones, the most of each interval; grey: acquires, up to " +
                                 number(most_rate) + " per second") +
         panel.line("rate", rate_line) + panel.line("adaptive-line", size_line);
}

}  // namespace

std::string to_plot(const Comparison& comparison, const Trace& trace) {
  const double height = kTop + 2 * kPanelHeight + kGap + 44;
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + at(kWidth) + " " + at(height) +
         "\" font-family=\"sans-serif\" font-size=\"12\">\n"
         "<style>path{fill:none;stroke-width:1.5}.axis{stroke:#555}.fixed{stroke:#888}.fixed-dot{fill:#888}"
         ".rate{stroke:#bbb}.adaptive-line{stroke:#06c}.adaptive{fill:#06c}.autoscaler{fill:#c60}</style>\n"
         "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n" +
         label(kLeft, 16, comparison.title, "start") + trade_off(comparison) + over_time(comparison, trace) +
         "</svg>\n";
}

}  // namespace granary::sim
