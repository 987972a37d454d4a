#include "io/graph_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"

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

GraphData load_graph(const Hdf5File& file, const std::string& group) {
  const std::string hash = file.read_text_attribute(group, "hash");
  GraphData graph;
  for (const std::string& path : ordered(file, join(group, "nodes"))) {
    NodeSet nodes;
    nodes.name = path.substr(path.rfind('/') + 1);
    nodes.latitudes = file.read_vector<double>(path + "/latitudes");
    nodes.longitudes = file.read_vector<double>(path + "/longitudes");
    if (file.exists(path + "/attributes"))
      for (const std::string& name : file.list(path + "/attributes"))
        nodes.attributes[name] = file.read_vector<double>(path + "/attributes/" + name);
    graph.nodes.push_back(std::move(nodes));
  }
  for (const std::string& path : ordered(file, join(group, "edges"))) {
    EdgeSet edges;
    edges.src = file.read_text_attribute(path, "src");
    edges.dst = file.read_text_attribute(path, "dst");
    edges.src_of = file.read_vector<int32_t>(path + "/src_of");
    edges.dst_of = file.read_vector<int32_t>(path + "/dst_of");
    edges.attributes = file.read_vector<double>(path + "/attributes");
    const std::string names = file.read_text(path + "/attribute_names");
    for (size_t begin = 0; begin < names.size();) {
      const size_t end = std::min(names.find('\n', begin), names.size());
      edges.attribute_names.push_back(names.substr(begin, end - begin));
      begin = end + 1;
    }
    for (const int32_t width : file.read_vector<int32_t>(path + "/attribute_widths"))
      edges.attribute_widths.push_back(width);
    graph.edges.push_back(std::move(edges));
  }
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
