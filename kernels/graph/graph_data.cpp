#include "kernels/graph/graph_data.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "kernels/core/error.h"
#include "kernels/core/partition.h"

namespace boreas {
namespace {

/// The content hash. Each 64-bit word is xored into the state, which is then scrambled by a bijection of
/// multiplications and shifts (constants of Steele's SplitMix64): cheap, and a changed word anywhere changes every bit
/// of the result.
class Hash {
 public:
  void add(uint64_t word) {
    state_ = (state_ ^ word) * 0x9e3779b97f4a7c15ull;
    state_ = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9ull;
    state_ ^= state_ >> 27;
  }
  void add(std::string_view text) {
    add(text.size());
    for (const char c : text) add(uint64_t(static_cast<unsigned char>(c)));
  }
  void add(std::span<const double> values) {
    add(values.size());
    for (const double value : values) add(std::bit_cast<uint64_t>(value + 0.0));  // -0 and 0 are equal
  }
  template <class Integer>
  void add(const std::vector<Integer>& values) {
    add(values.size());
    for (const Integer value : values) add(uint64_t(int64_t(value)));
  }
  std::string digits() const { return fmt::format("{:016x}", state_); }

 private:
  uint64_t state_ = 0xcbf29ce484222325ull;
};

std::string names_of(const std::vector<NodeSet>& nodes) {
  std::string names;
  for (const NodeSet& set : nodes) names += (names.empty() ? "" : ", ") + set.name;
  return names.empty() ? "none" : names;
}

std::string names_of(const std::vector<EdgeSet>& edges) {
  std::string names;
  for (const EdgeSet& set : edges) names += (names.empty() ? "" : ", ") + set.src + " -> " + set.dst;
  return names.empty() ? "none" : names;
}

void check_finite(std::span<const double> values, const std::string& what) {
  for (size_t i = 0; i < values.size(); ++i)
    BOREAS_CHECK(std::isfinite(values[i]), corrupt_data, "graph: {}: value {} is {}; all values must be finite", what,
                 i, values[i]);
}

void validate(const NodeSet& set) {
  const int64_t n = set.rows().size();
  BOREAS_CHECK(set.size() <= std::numeric_limits<int32_t>::max(), corrupt_data,
               "graph: node set {} has {} nodes; node numbers are 32-bit, so at most {} are possible", set.name,
               set.size(), std::numeric_limits<int32_t>::max());
  BOREAS_CHECK(int64_t(set.latitudes.size()) == n && int64_t(set.longitudes.size()) == n, corrupt_data,
               "graph: node set {} has {} latitudes but {} longitudes", set.name, set.latitudes.size(),
               set.longitudes.size());
  check_finite(set.latitudes, "latitudes of node set " + set.name);
  check_finite(set.longitudes, "longitudes of node set " + set.name);
  for (const auto& [name, values] : set.attributes) {
    BOREAS_CHECK(int64_t(values.size()) == n, corrupt_data,
                 "graph: attribute {} of node set {} has {} values for {} nodes", name, set.name, values.size(), n);
    check_finite(values, "attribute " + name + " of node set " + set.name);
  }
}

void validate(const EdgeSet& set, int64_t num_src, int64_t num_dst) {
  const std::string name = set.src + " -> " + set.dst;
  const int64_t m = set.rows().size();
  BOREAS_CHECK(int64_t(set.src_of.size()) == m && int64_t(set.dst_of.size()) == m, corrupt_data,
               "graph: edges {} have {} sources but {} destinations", name, set.src_of.size(), set.dst_of.size());
  for (int64_t e = 0; e < m; ++e) {
    BOREAS_CHECK(set.src_of[e] >= 0 && set.src_of[e] < num_src, corrupt_data,
                 "graph: edge {} of {} starts at node {}, but {} has {} nodes", e, name, set.src_of[e], set.src,
                 num_src);
    BOREAS_CHECK(set.dst_of[e] >= 0 && set.dst_of[e] < num_dst, corrupt_data,
                 "graph: edge {} of {} ends at node {}, but {} has {} nodes", e, name, set.dst_of[e], set.dst, num_dst);
    BOREAS_CHECK(e == 0 || set.dst_of[e - 1] <= set.dst_of[e], corrupt_data,
                 "graph: edges {} are not sorted by destination: edge {} ends at {}, the one before at {}", name, e,
                 set.dst_of[e], e == 0 ? 0 : set.dst_of[e - 1]);
  }
  BOREAS_CHECK(set.attribute_names.size() == set.attribute_widths.size(), corrupt_data,
               "graph: edges {} have {} attribute names but {} attribute widths", name, set.attribute_names.size(),
               set.attribute_widths.size());
  for (const int width : set.attribute_widths)
    BOREAS_CHECK(width >= 1, corrupt_data, "graph: edges {} have an attribute of width {}", name, width);
  BOREAS_CHECK(int64_t(set.attributes.size()) == m * set.attribute_width(), corrupt_data,
               "graph: edges {} have {} attribute values; {} edges with {} columns need {}", name,
               set.attributes.size(), m, set.attribute_width(), m * set.attribute_width());
  check_finite(set.attributes, "attributes of edges " + name);
}

}  // namespace

namespace {

using Points = std::vector<std::array<double, 3>>;

Points points_of(const NodeSet& nodes) {
  check_finite(nodes.latitudes, "latitudes of node set " + nodes.name);
  check_finite(nodes.longitudes, "longitudes of node set " + nodes.name);
  Points points;
  for (size_t i = 0; i < nodes.latitudes.size(); ++i)
    points.push_back({std::cos(nodes.latitudes[i]) * std::cos(nodes.longitudes[i]),
                      std::cos(nodes.latitudes[i]) * std::sin(nodes.longitudes[i]), std::sin(nodes.latitudes[i])});
  return points;
}

class Bisection {
 public:
  Bisection(std::span<const NodeSet> sets, int64_t count) {
    for (const NodeSet& nodes : sets) {
      points_.push_back(points_of(nodes));
      std::vector<int32_t>& order = orders_.emplace_back(points_.back().size());
      std::iota(order.begin(), order.end(), 0);
      partitions_.push_back(Partition::balanced(int64_t(order.size()), count));
      if (order.size() < orders_[smallest_].size()) smallest_ = orders_.size() - 1;
    }
    if (!orders_.empty()) bisect({0, count});
  }
  std::vector<std::vector<int32_t>>& orders() { return orders_; }

 private:
  void bisect(Range ranks) {
    if (ranks.size() < 2) {
      for (size_t s = 0; s < orders_.size(); ++s) {
        const Range rows = partitions_[s][ranks.begin];
        std::sort(orders_[s].begin() + rows.begin, orders_[s].begin() + rows.end);
      }
      return;
    }
    const int64_t middle = ranks.begin + ranks.size() / 2;
    const size_t axis = longest_axis(ranks);
    for (size_t s = 0; s < orders_.size(); ++s) {
      const auto before = [&](int32_t a, int32_t b) {
        const double x = points_[s][size_t(a)][axis], y = points_[s][size_t(b)][axis];
        return x != y ? x > y : a < b;
      };
      const auto begin = orders_[s].begin();
      std::nth_element(begin + partitions_[s][ranks.begin].begin, begin + partitions_[s][middle].begin,
                       begin + partitions_[s][ranks.end - 1].end, before);
    }
    bisect({ranks.begin, middle});
    bisect({middle, ranks.end});
  }

  size_t longest_axis(Range ranks) const {
    constexpr double kEqual = 1e-2;
    std::array<double, 3> low{2, 2, 2}, high{-2, -2, -2};
    const Partition& partition = partitions_[smallest_];
    for (int64_t i = partition[ranks.begin].begin; i < partition[ranks.end - 1].end; ++i)
      for (size_t axis = 0; axis < 3; ++axis) {
        const double x = points_[smallest_][size_t(orders_[smallest_][size_t(i)])][axis];
        low[axis] = std::min(low[axis], x);
        high[axis] = std::max(high[axis], x);
      }
    size_t longest = 2;  // from north to south where all are equal
    for (size_t axis = 0; axis < 2; ++axis)
      if (high[axis] - low[axis] > high[longest] - low[longest] + kEqual) longest = axis;
    return longest;
  }

  std::vector<Points> points_;
  std::vector<std::vector<int32_t>> orders_;
  std::vector<Partition> partitions_;
  size_t smallest_ = 0;
};

std::vector<Range> runs_of(std::span<const int32_t> numbers) {
  std::vector<Range> runs;
  for (const int32_t number : numbers) append_run(runs, {number, int64_t(number) + 1});
  return runs;
}

// Rows of these runs, one after the other.
auto picked(const auto& values, std::span<const Range> runs, int64_t width) {
  std::decay_t<decltype(values)> result;
  for (const Range run : runs)
    result.insert(result.end(), values.begin() + run.begin * width, values.begin() + run.end * width);
  return result;
}

}  // namespace

std::vector<std::vector<int32_t>> patch_orders(std::span<const NodeSet> sets, int64_t count) {
  return std::move(Bisection(sets, count).orders());
}

std::vector<int32_t> places_in(std::span<const int32_t> order) {
  std::vector<int32_t> places(order.size());
  for (size_t i = 0; i < order.size(); ++i) places[size_t(order[i])] = int32_t(i);
  return places;
}

GraphData in_patches(const GraphData& whole, int64_t count) {
  const std::vector<std::vector<int32_t>> orders = patch_orders(whole.nodes, count);
  GraphData result;
  result.stated_hash = whole.hash();
  for (size_t s = 0; s < orders.size(); ++s) {
    const NodeSet& set = whole.nodes[s];
    NodeSet& nodes = result.nodes.emplace_back();
    const std::vector<Range> stored = runs_of(orders[s]);
    nodes.name = set.name;
    nodes.latitudes = picked(set.latitudes, stored, 1);
    nodes.longitudes = picked(set.longitudes, stored, 1);
    for (const auto& [name, values] : set.attributes) nodes.attributes[name] = picked(values, stored, 1);
    nodes.part = {{0, set.size()}, set.size(), stored};
  }
  const auto order_of = [&](const std::string& name) -> const std::vector<int32_t>& {
    for (size_t s = 0; s < orders.size(); ++s)
      if (whole.nodes[s].name == name) return orders[s];
    BOREAS_FAIL(corrupt_data, "graph: edges name the node set {}, which the graph does not have", name);
  };
  for (const EdgeSet& set : whole.edges) {
    const std::vector<int32_t>& order = order_of(set.dst);
    std::vector<int64_t> first(order.size() + 1, 0);
    for (const int32_t dst : set.dst_of) ++first[size_t(dst) + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<Range> stored;
    for (const int32_t node : order) append_run(stored, {first[size_t(node)], first[size_t(node) + 1]});
    const std::vector<int32_t> src = places_in(order_of(set.src)), dst = places_in(order);
    EdgeSet& edges = result.edges.emplace_back();
    edges.src = set.src;
    edges.dst = set.dst;
    edges.attribute_names = set.attribute_names;
    edges.attribute_widths = set.attribute_widths;
    edges.src_of = picked(set.src_of, stored, 1);
    edges.dst_of = picked(set.dst_of, stored, 1);
    for (int32_t& node : edges.src_of) node = src[size_t(node)];
    for (int32_t& node : edges.dst_of) node = dst[size_t(node)];
    edges.attributes = picked(set.attributes, stored, set.attribute_width());
    edges.part = {{0, set.size()}, set.size(), stored};
  }
  return result;
}

GraphData part_of(const GraphData& whole, int64_t index, int64_t count) {
  const auto stored_of = [](const auto& set, Range rows) {
    return set.part ? boreas::cut(set.part->stored, rows) : std::vector<Range>();
  };
  const auto cut = [](const auto& values, Range rows, int64_t width) {
    return std::decay_t<decltype(values)>(values.begin() + rows.begin * width, values.begin() + rows.end * width);
  };
  GraphData part;
  part.stated_hash = whole.hash();
  for (const NodeSet& set : whole.nodes) {
    const Range rows = Partition::balanced(set.size(), count)[index];
    NodeSet& nodes = part.nodes.emplace_back();
    nodes.name = set.name;
    nodes.latitudes = cut(set.latitudes, rows, 1);
    nodes.longitudes = cut(set.longitudes, rows, 1);
    for (const auto& [name, values] : set.attributes) nodes.attributes[name] = cut(values, rows, 1);
    nodes.part = {rows, set.size(), stored_of(set, rows)};
  }
  for (const EdgeSet& set : whole.edges) {
    const Range dst = part.node_set(set.dst).rows();
    const auto first = [&](int64_t node) {
      return std::lower_bound(set.dst_of.begin(), set.dst_of.end(), int32_t(node)) - set.dst_of.begin();
    };
    const Range rows{first(dst.begin), first(dst.end)};
    EdgeSet& edges = part.edges.emplace_back();
    edges.src = set.src;
    edges.dst = set.dst;
    edges.attribute_names = set.attribute_names;
    edges.attribute_widths = set.attribute_widths;
    edges.src_of = cut(set.src_of, rows, 1);
    edges.dst_of = cut(set.dst_of, rows, 1);
    edges.attributes = cut(set.attributes, rows, set.attribute_width());
    edges.part = {rows, set.size(), stored_of(set, rows)};
  }
  return part;
}

int EdgeSet::attribute_width() const { return std::accumulate(attribute_widths.begin(), attribute_widths.end(), 0); }

const NodeSet& GraphData::node_set(std::string_view name) const {
  for (const NodeSet& set : nodes)
    if (set.name == name) return set;
  BOREAS_FAIL(config, "the graph has no node set {}; it has: {}", name, names_of(nodes));
}

const EdgeSet* GraphData::find_edges(std::string_view src, std::string_view dst) const {
  for (const EdgeSet& set : edges)
    if (set.src == src && set.dst == dst) return &set;
  return nullptr;
}

const EdgeSet& GraphData::edge_set(std::string_view src, std::string_view dst) const {
  const EdgeSet* found = find_edges(src, dst);
  BOREAS_CHECK(found, config, "the graph has no edges {} -> {}; it has: {}", src, dst, names_of(edges));
  return *found;
}

std::string GraphData::hash() const {
  if (is_part()) return stated_hash;
  Hash hash;
  hash.add(nodes.size());
  for (const NodeSet& set : nodes) {
    hash.add(set.name);
    hash.add(std::span(set.latitudes));
    hash.add(std::span(set.longitudes));
    hash.add(set.attributes.size());
    for (const auto& [name, values] : set.attributes) {
      hash.add(name);
      hash.add(std::span(values));
    }
  }
  hash.add(edges.size());
  for (const EdgeSet& set : edges) {
    hash.add(set.src);
    hash.add(set.dst);
    hash.add(set.src_of);
    hash.add(set.dst_of);
    hash.add(set.attribute_names.size());
    for (const std::string& name : set.attribute_names) hash.add(name);
    hash.add(set.attribute_widths);
    hash.add(std::span(set.attributes));
  }
  return hash.digits();
}

void GraphData::validate() const {
  for (size_t i = 0; i < nodes.size(); ++i) {
    boreas::validate(nodes[i]);
    for (size_t j = 0; j < i; ++j)
      BOREAS_CHECK(nodes[i].name != nodes[j].name, corrupt_data, "graph: two node sets are named {}", nodes[i].name);
  }
  const auto find = [&](const std::string& name) {
    for (const NodeSet& set : nodes)
      if (set.name == name) return &set;
    BOREAS_FAIL(corrupt_data, "graph: edges name the node set {}, which the graph does not have; it has: {}", name,
                names_of(nodes));
  };
  for (const EdgeSet& set : edges) boreas::validate(set, find(set.src)->size(), find(set.dst)->size());
}

}  // namespace boreas
