#include "models/communication.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace boreas {

namespace {

std::vector<int64_t> destination_pointers(const EdgeSet& edges, int64_t num_dst) {
  std::vector<int64_t> pointers(size_t(num_dst + 1), 0);
  for (const int32_t dst : edges.dst_of) ++pointers[size_t(dst) + 1];
  for (size_t i = 1; i < pointers.size(); ++i) pointers[i] += pointers[i - 1];
  return pointers;
}

double imbalance(const std::vector<ShardSize>& shards, auto&& value) {
  double sum = 0, most = 0;
  for (const ShardSize& shard : shards) {
    sum += double(value(shard));
    most = std::max(most, double(value(shard)));
  }
  return sum > 0 ? most * double(shards.size()) / sum : 1;
}

/// Bytes of a row forward and backward in the exchange, and of a row of one attention tensor.
struct RowBytes {
  int64_t forward, backward, attention;
};

void count_bytes(CommunicationPart& part, const RowBytes& row, int64_t times) {
  const int64_t ranks = int64_t(part.shards.size());
  int64_t num_src = 0;
  for (const ShardSize& shard : part.shards) num_src += shard.num_src;
  for (const ShardSize& shard : part.shards) {
    // Backward runs against forward: what was received is sent.
    part.halo_bytes =
        std::max(part.halo_bytes, times * (shard.rows_sent * row.forward + shard.rows_received * row.backward));
    part.allgather_bytes = std::max(part.allgather_bytes, times * (shard.num_src * (ranks - 1) * row.forward +
                                                                   (num_src - shard.num_src) * row.backward));
    const int64_t own_rows = 2 * shard.num_dst + 2 * shard.num_src;  // q and o; k and v
    part.heads_bytes = std::max(part.heads_bytes, times * 2 * (own_rows * row.attention * (ranks - 1) / ranks));
  }
  part.work_imbalance =
      imbalance(part.shards, [](const ShardSize& s) { return s.num_edges > 0 ? s.num_edges : s.num_dst; });
  part.halo_imbalance = imbalance(part.shards, [](const ShardSize& s) { return s.rows_received; });
}

}  // namespace

std::vector<CommunicationPart> plan_communication(const ModelConfig& config, const ModelShape& shape,
                                                  const GraphData& graph, int64_t num_ranks, DType storage) {
  const int64_t num_data = graph.node_set(shape.data_name).size(),
                num_hidden = graph.node_set(shape.hidden_name).size();
  BOREAS_CHECK(num_ranks >= 1 && num_ranks <= std::min(num_data, num_hidden), config,
               "{} ranks cannot share {} data and {} hidden nodes; use at most {}", num_ranks, num_data, num_hidden,
               std::min(num_data, num_hidden));
  const Partition data = Partition::balanced(num_data, num_ranks), hidden = Partition::balanced(num_hidden, num_ranks);
  const int64_t element = size_of(storage), sum = size_of(accumulator_of(storage));
  const int64_t channels = config.num_channels;
  const int64_t attention = config.attention_channels ? config.attention_channels : channels;
  const int64_t node_attributes = 4 + config.trainable.data;  // sines and cosines of the position
  const int64_t inputs = shape.num_input_steps * shape.num_inputs + node_attributes;
  const auto sizes_of = [&](const std::string& src, const std::string& dst, const Partition& src_owners,
                            const Partition& dst_owners) {
    const EdgeSet& edges = graph.edge_set(src, dst);
    return shard_sizes(destination_pointers(edges, dst_owners.size()), edges.src_of, src_owners, dst_owners);
  };

  std::vector<CommunicationPart> parts;
  parts.push_back({.name = "encoder", .shards = sizes_of(shape.data_name, shape.hidden_name, data, hidden)});
  count_bytes(parts.back(), {inputs * element, config.trainable.data * element, attention * element}, 1);
  if (config.processor.kind != ProcessorKind::none) {
    const bool window = config.processor.kind == ProcessorKind::transformer;
    parts.push_back({.name = "processor",
                     .shards = window ? window_shard_sizes(hidden, config.processor.window)
                                      : sizes_of(shape.hidden_name, shape.hidden_name, hidden, hidden)});
    const int64_t keys_values = 2 * attention * element;
    count_bytes(parts.back(), {keys_values, keys_values, attention * element}, config.processor.num_layers);
  }
  parts.push_back({.name = "decoder", .shards = sizes_of(shape.hidden_name, shape.data_name, hidden, data)});
  count_bytes(parts.back(), {channels * element, channels * sum, attention * element}, 1);
  return parts;
}

std::deque<PlannedCommunicator::Lists> planned_answers(const ModelConfig& config, const ModelShape& shape,
                                                       const GraphData& graph, int64_t num_ranks, int64_t rank) {
  const Partition data = Partition::balanced(graph.node_set(shape.data_name).size(), num_ranks);
  const Partition hidden = Partition::balanced(graph.node_set(shape.hidden_name).size(), num_ranks);
  const auto of_edges = [&](const std::string& src, const std::string& dst, const Partition& src_owners,
                            const Partition& dst_owners) {
    const EdgeSet& edges = graph.edge_set(src, dst);
    return rows_asked(destination_pointers(edges, dst_owners.size()), edges.src_of, src_owners, dst_owners, rank);
  };
  std::deque<PlannedCommunicator::Lists> answers;
  answers.push_back(of_edges(shape.data_name, shape.hidden_name, data, hidden));
  answers.push_back(of_edges(shape.hidden_name, shape.data_name, hidden, data));
  if (config.processor.kind == ProcessorKind::graph_transformer)
    answers.push_back(of_edges(shape.hidden_name, shape.hidden_name, hidden, hidden));
  else if (config.processor.kind == ProcessorKind::transformer)
    answers.push_back(window_rows_asked(hidden, config.processor.window, rank));
  return answers;
}

std::string communication_table(const std::vector<CommunicationPart>& parts, int64_t num_ranks,
                                GraphPartition partition) {
  std::string text = fmt::format(
      "{} ranks, {}; MiB that the busiest rank sends in a forward and backward\n"
      "{:<10} {:>10} {:>10} {:>9} {:>10} {:>10} {:>10} {:>10} {:>9}\n",
      num_ranks, partition == GraphPartition::patches ? "compact patches" : "bands of the node order", "part",
      "own src", "halo rows", "% of src", "neighbours", "halo", "allgather", "heads", "imbalance");
  const auto mib = [](int64_t bytes) { return double(bytes) / double(1 << 20); };
  for (const CommunicationPart& part : parts) {
    ShardSize most;
    for (const ShardSize& shard : part.shards) {
      most.num_src = std::max(most.num_src, shard.num_src);
      most.rows_received = std::max(most.rows_received, shard.rows_received);
      most.num_neighbours = std::max(most.num_neighbours, shard.num_neighbours);
    }
    text +=
        fmt::format("{:<10} {:>10} {:>10} {:>8.1f}% {:>10} {:>10.1f} {:>10.1f} {:>10.1f} {:>9.2f}\n", part.name,
                    most.num_src, most.rows_received,
                    100 * double(most.rows_received) / double(std::max<int64_t>(1, most.num_src)), most.num_neighbours,
                    mib(part.halo_bytes), mib(part.allgather_bytes), mib(part.heads_bytes), part.work_imbalance);
  }
  return text;
}

}  // namespace boreas
