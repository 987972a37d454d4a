// Small whole models on random graphs.
#pragma once

#include "models/encoder_processor_decoder.h"
#include "tests/support/fixtures.h"

namespace boreas::test {

inline constexpr int64_t kData = 13, kHidden = 7;

inline EdgeSet edges_between(const std::string& src, const std::string& dst, int64_t num_src, int64_t num_dst) {
  const RandomEdges random = random_edges(num_src, num_dst, 3);
  EdgeSet edges{.src = src, .dst = dst, .attribute_names = {"edge_length", "edge_dirs"}, .attribute_widths = {1, 2}};
  edges.src_of = random.src_of;
  for (int64_t i = 0; i < num_dst; ++i)
    for (int64_t m = random.dst_ptr[size_t(i)]; m < random.dst_ptr[size_t(i) + 1]; ++m)
      edges.dst_of.push_back(int32_t(i));
  const Philox rng(5, uint64_t(num_src * 100 + num_dst));
  for (int64_t m = 0; m < 3 * edges.size(); ++m) edges.attributes.push_back(rng.normal(uint64_t(m)));
  return edges;
}

inline GraphData small_graph() {
  GraphData graph;
  for (const auto& [name, n] : {std::pair{"data", kData}, std::pair{"hidden", kHidden}}) {
    NodeSet nodes{.name = name};
    for (int64_t i = 0; i < n; ++i) {
      nodes.latitudes.push_back(1.5 - 3.0 * double(i) / double(n));
      nodes.longitudes.push_back(2.4 * double(i));
    }
    graph.nodes.push_back(nodes);
  }
  graph.edges = {edges_between("data", "hidden", kData, kHidden), edges_between("hidden", "hidden", kHidden, kHidden),
                 edges_between("hidden", "data", kHidden, kData)};
  graph.validate();
  return graph;
}

inline ModelConfig small_config(ProcessorKind processor = ProcessorKind::graph_transformer) {
  ModelConfig config;
  config.num_channels = 6;
  config.num_heads = 2;
  config.mlp_ratio = 1.5;
  config.trainable = {.data = 2, .hidden = 3, .encoder = 2, .processor = 1, .decoder = 2};
  config.processor.kind = processor;
  config.processor.num_layers = 2;
  config.processor.window = 2;
  return config;
}

/// Two input steps of 4 variables, one of them a forcing; `num_output_steps` steps of 4, one of them a diagnostic.
inline ModelShape small_shape(int64_t num_output_steps = 1) {
  ModelShape shape;
  shape.num_input_steps = 2;
  shape.num_output_steps = num_output_steps;
  shape.num_inputs = 4;
  shape.num_outputs = 4;
  shape.input_prognostic = {0, 2, 3};
  shape.output_prognostic = {0, 1, 3};
  return shape;
}

inline std::vector<ResolvedBounding> all_boundings() {
  return {{.kind = BoundingKind::leaky_relu, .columns = {0, 2}},
          {.kind = BoundingKind::hardtanh, .columns = {1}, .minimum = -1.3, .maximum = 0.9},
          {.kind = BoundingKind::normalized_leaky_relu, .columns = {2}, .offsets = {-0.4}},
          {.kind = BoundingKind::leaky_fraction, .columns = {3}, .minimum = 0, .maximum = 1, .total_column = 0},
          {.kind = BoundingKind::relu, .columns = {}},
          {.kind = BoundingKind::normalized_relu, .columns = {0}, .offsets = {-0.2}}};
}

}  // namespace boreas::test
