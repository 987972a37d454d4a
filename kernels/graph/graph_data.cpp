#include "kernels/graph/graph_data.h"

#include <algorithm>
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

GraphData part_of(const GraphData& whole, int64_t index, int64_t count) {
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
    nodes.part = {rows, set.size()};
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
    edges.part = {rows, set.size()};
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
