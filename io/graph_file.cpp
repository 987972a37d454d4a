#include "io/graph_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>

#include "kernels/core/error.h"
#include "kernels/core/partition.h"

namespace boreas {
namespace {

std::string join(const std::string& group, const std::string& name) {
  return group.empty() ? name : group + "/" + name;
}

void check_name(const std::string& name) {
  BOREAS_CHECK(
      !name.empty() && name.find('/') == std::string::npos && name != "." && name != "..", invalid_argument,
      "a graph with a node set or attribute named '{}' cannot be stored: names may not be empty or hold a slash", name);
}

template <class T>
void write(Hdf5File& file, const std::string& name, const std::vector<T>& values) {
  file.write(name, std::span<const T>(values));
}

// The members of a group in the order of their attribute "position".
std::vector<std::string> ordered(const Hdf5File& file, const std::string& group) {
  if (!file.exists(group)) return {};
  std::vector<std::pair<int64_t, std::string>> found;
  for (const std::string& name : file.list(group))
    found.emplace_back(file.read_integer_attribute(join(group, name), "position"), join(group, name));
  std::sort(found.begin(), found.end());
  std::vector<std::string> paths;
  for (auto& entry : found) paths.push_back(std::move(entry.second));
  return paths;
}

// Rows of an array of vectors or numbers.
template <class T>
std::vector<T> read_rows(const Hdf5File& file, const std::string& name, std::span<const Range> runs) {
  const Shape whole = file.info(name).shape;
  const int64_t width = whole.rank() > 1 ? whole[1] : 1;
  int64_t num_rows = 0;
  for (const Range run : runs) num_rows += run.size();
  std::vector<T> values(size_t(num_rows * width));
  T* next = values.data();
  for (const Range run : runs) {
    if (run.size() * width == 0) continue;
    file.read_rows(name, run.begin,
                   Tensor(next, dtype_of<T>, whole.rank() > 1 ? Shape{run.size(), width} : Shape{run.size()}));
    next += run.size() * width;
  }
  return values;
}

template <class T>
std::vector<T> read_rows(const Hdf5File& file, const std::string& name, Range rows) {
  return read_rows<T>(file, name, std::span(&rows, 1));
}

// The first edge that ends in this node or a later one; the file is sorted by destination.
int64_t first_edge(const Hdf5File& file, const std::string& dst_of, int64_t num_edges, int64_t node) {
  int64_t begin = 0, end = num_edges;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (read_rows<int32_t>(file, dst_of, {middle, middle + 1})[0] < node)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

// By name of the node set, the node at each place in patches, and its inverse.
struct PatchOrder {
  std::vector<int32_t> order, places;

  // The place of a node; what is no node stays so, and is found when the graph is validated.
  void renumber(std::vector<int32_t>& nodes) const {
    for (int32_t& node : nodes)
      if (node >= 0 && size_t(node) < places.size()) node = places[size_t(node)];
  }
};
using PatchOrders = std::map<std::string, PatchOrder>;

std::string name_of_nodes(const std::string& path) { return path.substr(path.rfind('/') + 1); }

PatchOrders read_patch_orders(const Hdf5File& file, const std::vector<std::string>& paths, int64_t count) {
  std::vector<NodeSet> sets;
  for (const std::string& path : paths) {
    NodeSet& nodes = sets.emplace_back();
    nodes.name = name_of_nodes(path);
    nodes.latitudes = file.read_vector<double>(path + "/latitudes");
    nodes.longitudes = file.read_vector<double>(path + "/longitudes");
    BOREAS_CHECK(nodes.latitudes.size() == nodes.longitudes.size(), corrupt_data,
                 "{}: node set {} has {} latitudes but {} longitudes", file.path(), nodes.name, nodes.latitudes.size(),
                 nodes.longitudes.size());
  }
  std::vector<std::vector<int32_t>> orders = patch_orders(sets, count);
  PatchOrders found;
  for (size_t s = 0; s < sets.size(); ++s) {
    std::vector<int32_t> places = places_in(orders[s]);
    found[sets[s].name] = {std::move(orders[s]), std::move(places)};
  }
  return found;
}

NodeSet read_nodes(const Hdf5File& file, const std::string& path, const GraphShare& share, const PatchOrders& orders) {
  NodeSet nodes;
  nodes.name = name_of_nodes(path);
  const int64_t size = file.info(path + "/latitudes").shape[0];
  const Range rows = Partition::balanced(size, share.count)[share.index];
  if (share.count > 1) nodes.part = {rows, size};
  std::vector<Range> runs = {rows};
  if (const auto patches = orders.find(nodes.name); patches != orders.end()) {
    runs.clear();
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t node = patches->second.order[size_t(i)];
      append_run(runs, {node, node + 1});
    }
    nodes.part->stored = runs;
  }
  nodes.latitudes = read_rows<double>(file, path + "/latitudes", runs);
  nodes.longitudes = read_rows<double>(file, path + "/longitudes", runs);
  if (file.exists(path + "/attributes"))
    for (const std::string& name : file.list(path + "/attributes"))
      nodes.attributes[name] = read_rows<double>(file, path + "/attributes/" + name, runs);
  return nodes;
}

EdgeSet read_edges(const Hdf5File& file, const std::string& path, const GraphData& graph, const GraphShare& share,
                   const PatchOrders& orders) {
  EdgeSet edges;
  edges.src = file.read_text_attribute(path, "src");
  edges.dst = file.read_text_attribute(path, "dst");
  const int64_t size = file.info(path + "/src_of").shape[0];
  const auto edges_into = [&](Range dst) {
    return Range{first_edge(file, path + "/dst_of", size, dst.begin),
                 first_edge(file, path + "/dst_of", size, dst.end)};
  };
  std::vector<Range> runs = {{0, size}};
  if (!orders.empty()) {
    runs.clear();
    for (const Range dst : graph.node_set(edges.dst).part->stored) append_run(runs, edges_into(dst));
  } else if (share.count > 1) {
    runs = {edges_into(graph.node_set(edges.dst).rows())};
    edges.part = {runs[0], size};
  }
  edges.src_of = read_rows<int32_t>(file, path + "/src_of", runs);
  edges.dst_of = read_rows<int32_t>(file, path + "/dst_of", runs);
  edges.attributes = read_rows<double>(file, path + "/attributes", runs);
  if (!orders.empty()) {  // what others have is not known: counted from the first
    edges.part = {{0, int64_t(edges.src_of.size())}, size, runs};
    (void)graph.node_set(edges.src);
    orders.at(edges.src).renumber(edges.src_of);
    orders.at(edges.dst).renumber(edges.dst_of);
  }
  const std::string names = file.read_text(path + "/attribute_names");
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find('\n', begin), names.size());
    edges.attribute_names.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  for (const int32_t width : file.read_vector<int32_t>(path + "/attribute_widths"))
    edges.attribute_widths.push_back(width);
  return edges;
}

}  // namespace

void save_graph(Hdf5File& file, const std::string& group, const GraphData& graph) {
  file.make_group(join(group, "nodes"));
  file.make_group(join(group, "edges"));
  file.write_attribute(group, "hash", graph.hash());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const NodeSet& nodes = graph.nodes[i];
    check_name(nodes.name);
    const std::string path = join(group, "nodes/" + nodes.name);
    write(file, path + "/latitudes", nodes.latitudes);
    write(file, path + "/longitudes", nodes.longitudes);
    file.write_attribute(path, "position", int64_t(i));
    for (const auto& [name, values] : nodes.attributes) {
      check_name(name);
      write(file, path + "/attributes/" + name, values);
    }
  }
  for (size_t i = 0; i < graph.edges.size(); ++i) {
    const EdgeSet& edges = graph.edges[i];
    const std::string path = join(group, fmt::format("edges/{}-to-{}", edges.src, edges.dst));
    write(file, path + "/src_of", edges.src_of);
    write(file, path + "/dst_of", edges.dst_of);
    file.write(path + "/attributes", Tensor(const_cast<double*>(edges.attributes.data()), DType::f64,
                                            {edges.size(), int64_t(edges.attribute_width())}));
    file.write_text(path + "/attribute_names", fmt::format("{}", fmt::join(edges.attribute_names, "\n")));
    write(file, path + "/attribute_widths",
          std::vector<int32_t>(edges.attribute_widths.begin(), edges.attribute_widths.end()));
    file.write_attribute(path, "position", int64_t(i));
    file.write_attribute(path, "src", edges.src);
    file.write_attribute(path, "dst", edges.dst);
  }
}

GraphData load_graph(const Hdf5File& file, const std::string& group) { return load_graph(file, group, {}); }

GraphData load_graph(const Hdf5File& file, const std::string& group, const GraphShare& share) {
  const std::string hash = file.read_text_attribute(group, "hash");
  GraphData graph;
  const std::vector<std::string> nodes = ordered(file, join(group, "nodes"));
  PatchOrders orders;
  if (share.count > 1 && share.partition == GraphPartition::patches)
    orders = read_patch_orders(file, nodes, share.count);
  for (const std::string& path : nodes) graph.nodes.push_back(read_nodes(file, path, share, orders));
  for (const std::string& path : ordered(file, join(group, "edges")))
    graph.edges.push_back(read_edges(file, path, graph, share, orders));
  if (share.count > 1) graph.stated_hash = hash;
  graph.validate();
  BOREAS_CHECK(graph.hash() == hash, corrupt_data,
               "{}: the graph in '/{}' has hash {} but states {}: it was changed or damaged", file.path(), group,
               graph.hash(), hash);
  return graph;
}

void save_graph(const std::string& path, const GraphData& graph) {
  Hdf5File file = Hdf5File::create(path);
  save_graph(file, "", graph);
  file.commit();
}

GraphData load_graph(const std::string& path) { return load_graph(Hdf5File::open(path), ""); }

std::string stored_graph_hash(const Hdf5File& file, const std::string& group) {
  return file.has_attribute(group, "hash") ? file.read_text_attribute(group, "hash") : "";
}

}  // namespace boreas
