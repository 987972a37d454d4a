#include "io/graph_file.h"

#include <gtest/gtest.h>

#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

GraphData small_graph() {
  GraphData graph;
  graph.nodes.push_back({"data", {0.1, 0.2, 0.3}, {1, 2, 3}, {{"area_weight", {0.5, 0.25, 0.25}}}});
  graph.nodes.push_back({"a hidden one", {-0.5, 0.5}, {0, 6}, {}});
  graph.edges.push_back({"data",
                         "a hidden one",
                         {0, 2, 1},
                         {0, 0, 1},
                         {"edge_length", "edge_dirs"},
                         {1, 2},
                         {1, 2, 3, 4, 5, 6, 7, 8, 9}});
  graph.edges.push_back({"a hidden one", "data", {}, {}, {"edge_length"}, {1}, {}});
  return graph;
}

void expect_equal(const GraphData& a, const GraphData& b) {
  ASSERT_EQ(a.nodes.size(), b.nodes.size());
  for (size_t i = 0; i < a.nodes.size(); ++i) {
    EXPECT_EQ(a.nodes[i].name, b.nodes[i].name);
    EXPECT_EQ(a.nodes[i].latitudes, b.nodes[i].latitudes);
    EXPECT_EQ(a.nodes[i].longitudes, b.nodes[i].longitudes);
    EXPECT_EQ(a.nodes[i].attributes, b.nodes[i].attributes);
  }
  ASSERT_EQ(a.edges.size(), b.edges.size());
  for (size_t i = 0; i < a.edges.size(); ++i) {
    EXPECT_EQ(a.edges[i].src, b.edges[i].src);
    EXPECT_EQ(a.edges[i].dst, b.edges[i].dst);
    EXPECT_EQ(a.edges[i].src_of, b.edges[i].src_of);
    EXPECT_EQ(a.edges[i].dst_of, b.edges[i].dst_of);
    EXPECT_EQ(a.edges[i].attribute_names, b.edges[i].attribute_names);
    EXPECT_EQ(a.edges[i].attribute_widths, b.edges[i].attribute_widths);
    EXPECT_EQ(a.edges[i].attributes, b.edges[i].attributes);
  }
}

TEST(GraphFile, ReadsBackWhatWasWritten) {
  test::TemporaryFolder folder;
  const GraphData graph = small_graph();
  save_graph(folder / "graph.h5", graph);
  expect_equal(load_graph(folder / "graph.h5"), graph);
  EXPECT_EQ(stored_graph_hash(Hdf5File::open(folder / "graph.h5"), ""), graph.hash());
}

TEST(GraphFile, LivesInAGroupOfACheckpoint) {
  test::TemporaryFolder folder;
  const GraphData graph = small_graph();
  {
    Hdf5File file = Hdf5File::create(folder / "checkpoint.h5");
    file.write_text("config", "x");
    save_graph(file, "graph", graph);
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(folder / "checkpoint.h5");
  expect_equal(load_graph(file, "graph"), graph);
  EXPECT_EQ(stored_graph_hash(file, "graph"), graph.hash());
  EXPECT_EQ(stored_graph_hash(file, ""), "");
  BOREAS_EXPECT_ERROR(load_graph(file, ""), invalid_argument, "has no attribute 'hash'");
}

TEST(GraphFile, PartsTogetherAreTheWhole) {
  test::TemporaryFolder folder;
  GraphData graph;
  graph.nodes.push_back({"data", {}, {}, {{"area_weight", {}}}});
  graph.nodes.push_back({"hidden", {0.1, 0.2, 0.3, 0.4}, {1, 2, 3, 4}, {}});
  for (int i = 0; i < 11; ++i) {
    graph.nodes[0].latitudes.push_back(0.1 * i);
    graph.nodes[0].longitudes.push_back(0.2 * i);
    graph.nodes[0].attributes["area_weight"].push_back(i + 1);
  }
  // Hidden nodes 0 and 2 have no edges; all edges of node 3 stand last.
  graph.edges.push_back({"data", "hidden", {0, 4, 10, 2, 3}, {1, 1, 1, 3, 3}, {"edge_length"}, {1}, {1, 2, 3, 4, 5}});
  graph.edges.push_back({"hidden", "data", {}, {}, {"edge_length", "edge_dirs"}, {1, 2}, {}});
  for (int i = 0; i < 11; ++i)
    for (int k = 0; k < i % 3; ++k) {
      graph.edges[1].src_of.push_back(k);
      graph.edges[1].dst_of.push_back(i);
      for (int c = 0; c < 3; ++c) graph.edges[1].attributes.push_back(100 * i + 10 * k + c);
    }
  save_graph(folder / "graph.h5", graph);
  const Hdf5File file = Hdf5File::open(folder / "graph.h5");
  for (const int64_t count : {1, 2, 3, 4, 11, 13}) {
    GraphData together = graph;
    for (NodeSet& nodes : together.nodes) nodes = {nodes.name, {}, {}, {}};
    for (EdgeSet& edges : together.edges) edges.src_of.clear(), edges.dst_of.clear(), edges.attributes.clear();
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    for (int64_t index = 0; index < count; ++index) {
      const GraphData part = load_graph(file, "", {index, count});
      // Patches are read as they are cut out of the whole graph.
      const GraphData patch = load_graph(file, "", {index, count, GraphPartition::patches});
      const GraphData expected = count > 1 ? part_of(in_patches(graph, count), index, count) : graph;
      EXPECT_EQ(patch.hash(), graph.hash());
      expect_equal(patch, expected);
      for (size_t i = 0; i < patch.nodes.size() && count > 1; ++i)
        EXPECT_EQ(patch.nodes[i].part->stored, expected.nodes[i].part->stored);
      for (size_t i = 0; i < patch.edges.size() && count > 1; ++i)
        EXPECT_EQ(patch.edges[i].part->stored, expected.edges[i].part->stored);
      EXPECT_EQ(part.hash(), graph.hash());
      EXPECT_EQ(part.is_part(), count > 1);
      for (size_t i = 0; i < part.nodes.size(); ++i) {
        EXPECT_EQ(part.nodes[i].size(), graph.nodes[i].size());
        EXPECT_EQ(part.nodes[i].rows().begin, int64_t(together.nodes[i].latitudes.size()));
        append(together.nodes[i].latitudes, part.nodes[i].latitudes);
        append(together.nodes[i].longitudes, part.nodes[i].longitudes);
        for (const auto& [name, values] : part.nodes[i].attributes) append(together.nodes[i].attributes[name], values);
      }
      for (size_t i = 0; i < part.edges.size(); ++i) {
        const Range dst = part.node_set(part.edges[i].dst).rows();
        for (const int32_t node : part.edges[i].dst_of) EXPECT_TRUE(node >= dst.begin && node < dst.end);
        EXPECT_EQ(part.edges[i].size(), graph.edges[i].size());
        EXPECT_EQ(part.edges[i].rows().begin, int64_t(together.edges[i].src_of.size()));
        append(together.edges[i].src_of, part.edges[i].src_of);
        append(together.edges[i].dst_of, part.edges[i].dst_of);
        append(together.edges[i].attributes, part.edges[i].attributes);
      }
    }
    expect_equal(together, graph);
  }

  Hdf5File copy = Hdf5File::create(folder / "copy.h5");
  copy.copy_from(file, "", "a/graph");
  copy.commit();
  expect_equal(load_graph(Hdf5File::open(folder / "copy.h5"), "a/graph"), graph);
  Hdf5File again = Hdf5File::create(folder / "again.h5");
  BOREAS_EXPECT_ERROR(again.copy_from(file, "nothing", "graph"), io, "graph.h5");
}

TEST(GraphFile, RefusesWhatDoesNotFitItsHashOrItself) {
  test::TemporaryFolder folder;
  const auto save_as = [&](const GraphData& graph, const std::string& hash) {
    Hdf5File file = Hdf5File::create(folder / "graph.h5");
    save_graph(file, "", graph);
    file.write_attribute("", "hash", hash);
    file.commit();
  };
  GraphData graph = small_graph();
  save_as(graph, "0123456789abcdef");
  BOREAS_EXPECT_ERROR(load_graph(folder / "graph.h5"), corrupt_data, "states 0123456789abcdef");
  graph.edges[0].src_of[1] = 17;
  save_as(graph, graph.hash());
  BOREAS_EXPECT_ERROR(load_graph(folder / "graph.h5"), corrupt_data, "17");
  graph = small_graph();
  graph.nodes[0].name = "a/b";
  BOREAS_EXPECT_ERROR(save_graph(folder / "other.h5", graph), invalid_argument, "'a/b'");
}

}  // namespace
}  // namespace boreas
