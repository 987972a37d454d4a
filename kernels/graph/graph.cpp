#include "kernels/graph/graph.h"

#include <algorithm>
#include <limits>

namespace boreas {

namespace {

constexpr int64_t kMaxIndex = std::numeric_limits<int32_t>::max();

void check_counts(int64_t num_src, int64_t num_dst, int64_t num_edges) {
  BOREAS_CHECK(num_src >= 0 && num_dst >= 0, corrupt_data,
               "graph: {} sources and {} destinations; neither may be negative", num_src, num_dst);
  BOREAS_CHECK(std::max({num_src, num_dst, num_edges}) <= kMaxIndex, unsupported,
               "graph: {} sources, {} destinations, {} edges; indices have 32 bits, so each may be at most {}", num_src,
               num_dst, num_edges, kMaxIndex);
}

// Turns counts at [i + 1] into offsets.
void accumulate_counts(std::span<int64_t> ptr) {
  for (size_t i = 1; i < ptr.size(); ++i) ptr[i] += ptr[i - 1];
}

// One allocation for the five arrays, the 64-bit ones first so that all are aligned.
Buffer index_storage(Device device, int64_t num_src, int64_t num_dst, int64_t num_edges) {
  const int64_t bytes = (num_dst + 1 + num_src + 1) * size_of(DType::i64) + 3 * num_edges * size_of(DType::i32);
  return Buffer::on(device, bytes, "graph");
}

}  // namespace

Graph::Graph(Buffer storage, int64_t num_src, int64_t num_dst, int64_t num_edges)
    : num_src_(num_src), num_dst_(num_dst), num_edges_(num_edges), storage_(std::move(storage)) {
  int64_t offset = 0;
  const auto next = [&](DType dtype, int64_t size) {
    const Tensor array = storage_.tensor(dtype, {size}, offset);
    offset += array.bytes();
    return array;
  };
  dst_ptr = next(DType::i64, num_dst + 1);
  src_ptr = next(DType::i64, num_src + 1);
  src_of = next(DType::i32, num_edges);
  edge_of = next(DType::i32, num_edges);
  dst_of = next(DType::i32, num_edges);
}

Graph Graph::from_sorted(int64_t num_src, int64_t num_dst, std::span<const int64_t> dst_ptr,
                         std::span<const int32_t> src_of) {
  const int64_t num_edges = int64_t(src_of.size());
  check_counts(num_src, num_dst, num_edges);
  BOREAS_CHECK(int64_t(dst_ptr.size()) == num_dst + 1, corrupt_data,
               "graph: dst_ptr has {} entries; {} destinations need {}", dst_ptr.size(), num_dst, num_dst + 1);
  BOREAS_CHECK(dst_ptr[0] == 0, corrupt_data, "graph: dst_ptr[0] is {}; it must be 0", dst_ptr[0]);
  for (int64_t i = 0; i < num_dst; ++i)
    BOREAS_CHECK(dst_ptr[i] <= dst_ptr[i + 1], corrupt_data, "graph: dst_ptr[{}] = {} is less than dst_ptr[{}] = {}",
                 i + 1, dst_ptr[i + 1], i, dst_ptr[i]);
  BOREAS_CHECK(dst_ptr[num_dst] == num_edges, corrupt_data,
               "graph: dst_ptr[{}] is {}; it must be the number of edges, {}", num_dst, dst_ptr[num_dst], num_edges);
  for (int64_t m = 0; m < num_edges; ++m)
    BOREAS_CHECK(0 <= src_of[m] && src_of[m] < num_src, corrupt_data,
                 "graph: src_of[{}] = {} is not a source in [0, {})", m, src_of[m], num_src);

  Graph graph(index_storage(Device::cpu(), num_src, num_dst, num_edges), num_src, num_dst, num_edges);
  std::ranges::copy(dst_ptr, graph.dst_ptr.as<int64_t>());
  std::ranges::copy(src_of, graph.src_of.as<int32_t>());
  if (num_edges > 0 && num_edges % num_dst == 0) {
    const int64_t degree = num_edges / num_dst;
    bool fixed = true;
    for (int64_t i = 0; i < num_dst; ++i) fixed &= dst_ptr[i] == degree * i;
    if (fixed) graph.fixed_degree_ = degree;
  }

  // By source: edges are visited in ascending order, so the edges of a source stay ascending.
  const std::span src_ptr(graph.src_ptr.as<int64_t>(), num_src + 1);
  std::ranges::fill(src_ptr, 0);
  for (const int32_t j : src_of) ++src_ptr[j + 1];
  accumulate_counts(src_ptr);
  std::vector<int64_t> next(src_ptr.begin(), src_ptr.end() - 1);
  int32_t* const edge_of = graph.edge_of.as<int32_t>();
  int32_t* const dst_of = graph.dst_of.as<int32_t>();
  for (int64_t i = 0; i < num_dst; ++i)
    for (int64_t m = dst_ptr[i]; m < dst_ptr[i + 1]; ++m) {
      const int64_t position = next[src_of[m]]++;
      edge_of[position] = int32_t(m);
      dst_of[position] = int32_t(i);
    }
  return graph;
}

Graph Graph::to(Device device, const Stream& stream) const {
  BOREAS_CHECK(!dst_ptr.empty(), invalid_argument, "graph: an empty graph cannot be copied to {}", to_string(device));
  Graph copy(index_storage(device, num_src_, num_dst_, num_edges_), num_src_, num_dst_, num_edges_);
  copy.fixed_degree_ = fixed_degree_;
  copy_bytes(stream, copy.storage_.data(), device, storage_.data(), storage_.device(), storage_.bytes());
  stream.synchronize();
  return copy;
}

SortedEdges sort_by_destination(int64_t num_src, int64_t num_dst, std::span<const int32_t> src,
                                std::span<const int32_t> dst) {
  BOREAS_CHECK(src.size() == dst.size(), shape, "graph: {} edge sources but {} edge destinations", src.size(),
               dst.size());
  const int64_t num_edges = int64_t(src.size());
  check_counts(num_src, num_dst, num_edges);
  for (int64_t m = 0; m < num_edges; ++m)
    BOREAS_CHECK(0 <= src[m] && src[m] < num_src && 0 <= dst[m] && dst[m] < num_dst, corrupt_data,
                 "graph: edge {} goes from {} to {}; sources are [0, {}), destinations [0, {})", m, src[m], dst[m],
                 num_src, num_dst);
  SortedEdges sorted{std::vector<int64_t>(num_dst + 1, 0), std::vector<int32_t>(num_edges),
                     std::vector<int64_t>(num_edges)};
  for (const int32_t i : dst) ++sorted.dst_ptr[i + 1];
  accumulate_counts(sorted.dst_ptr);
  std::vector<int64_t> next(sorted.dst_ptr.begin(), sorted.dst_ptr.end() - 1);
  for (int64_t m = 0; m < num_edges; ++m) {
    const int64_t position = next[dst[m]]++;
    sorted.src_of[position] = src[m];
    sorted.permutation[position] = m;
  }
  return sorted;
}

Subgraph restrict_to(const Graph& graph, Range dst) {
  BOREAS_CHECK(!graph.dst_ptr.empty() && !graph.dst_ptr.device().is_cuda(), invalid_argument,
               "graph: restrict_to needs a graph on the host");
  BOREAS_CHECK(0 <= dst.begin && dst.begin <= dst.end && dst.end <= graph.num_dst(), invalid_argument,
               "graph: destinations [{}, {}) are not a range of the {} destinations", dst.begin, dst.end,
               graph.num_dst());
  const int64_t* const dst_ptr = graph.dst_ptr.as<int64_t>();
  const Range edges{dst_ptr[dst.begin], dst_ptr[dst.end]};
  const std::span src_of(graph.src_of.as<int32_t>() + edges.begin, edges.size());

  // Mark the used sources, then number them in ascending order.
  std::vector<int32_t> number_of(graph.num_src(), 0);
  for (const int32_t j : src_of) number_of[j] = 1;
  const int64_t num_used = std::ranges::count(number_of, 1);
  Subgraph sub{.graph = {},
               .dst = dst,
               .edges = edges,
               .storage = Buffer::on(Device::cpu(), num_used * size_of(DType::i32), "graph"),
               .src_ids = {}};
  sub.src_ids = sub.storage.tensor(DType::i32, {num_used});
  int32_t* const src_ids = sub.src_ids.as<int32_t>();
  int32_t next = 0;
  for (int64_t j = 0; j < graph.num_src(); ++j)
    if (number_of[j]) {
      src_ids[next] = int32_t(j);
      number_of[j] = next++;
    }

  std::vector<int64_t> sub_ptr(dst.size() + 1);
  for (int64_t i = 0; i <= dst.size(); ++i) sub_ptr[i] = dst_ptr[dst.begin + i] - edges.begin;
  std::vector<int32_t> sub_src(edges.size());
  for (int64_t m = 0; m < edges.size(); ++m) sub_src[m] = number_of[src_of[m]];
  sub.graph = Graph::from_sorted(num_used, dst.size(), sub_ptr, sub_src);
  return sub;
}

}  // namespace boreas
