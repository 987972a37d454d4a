#include "comm/rank_graph.h"

#include <algorithm>
#include <numeric>

namespace boreas {

RankGraph make_rank_graph(Communicator& ranks, const Partition& src_owners, const Partition& dst_owners,
                          std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of, int64_t first_edge,
                          ExchangeKind kind, Device device) {
  BOREAS_CHECK(dst_owners.num_parts() == ranks.size(), invalid_argument, "{} parts do not fit {} ranks",
               dst_owners.num_parts(), ranks.size());
  const Range dst = dst_owners[ranks.rank()];
  const auto num_edges = int64_t(src_of.size());
  BOREAS_CHECK(int64_t(dst_ptr.size()) == dst.size() + 1, shape, "edges into {} destinations are not those of {}",
               int64_t(dst_ptr.size()) - 1, dst.size());
  std::vector<int64_t> needed(src_of.begin(), src_of.end());
  std::sort(needed.begin(), needed.end());
  needed.erase(std::unique(needed.begin(), needed.end()), needed.end());
  RankGraph result{.graph = {}, .sources = {}, .dst = dst, .edges = {first_edge, first_edge + num_edges}};
  result.sources = RowExchange::make(ranks, src_owners, needed, kind, device);

  const std::vector<int64_t>& ids = result.sources.ids();
  std::vector<int32_t> rows(src_of.size());  // of the exchange
  for (size_t m = 0; m < rows.size(); ++m)
    rows[m] = int32_t(std::lower_bound(ids.begin(), ids.end(), int64_t(src_of[m])) - ids.begin());
  result.graph = Graph::from_sorted(result.sources.num_rows(), dst.size(), dst_ptr, rows);
  return result;
}

RankGraph make_rank_graph(Communicator& ranks, const Graph& whole, const Partition& src_owners,
                          const Partition& dst_owners, ExchangeKind kind, Device device) {
  BOREAS_CHECK(src_owners.size() == whole.num_src() && dst_owners.size() == whole.num_dst(), shape,
               "a graph of {} sources and {} destinations cannot be split like {} and {} rows", whole.num_src(),
               whole.num_dst(), src_owners.size(), dst_owners.size());
  const Range dst = dst_owners[ranks.rank()];
  const int64_t* const pointers = whole.dst_ptr.as<int64_t>();
  std::vector<int64_t> dst_ptr(pointers + dst.begin, pointers + dst.end + 1);
  const int64_t first = dst_ptr.front();
  for (int64_t& pointer : dst_ptr) pointer -= first;
  return make_rank_graph(ranks, src_owners, dst_owners, dst_ptr,
                         {whole.src_of.as<int32_t>() + first, size_t(dst_ptr.back())}, first, kind, device);
}

InteriorFirst interior_first(RankGraph part) {
  const Graph& graph = part.graph;
  const Range own = part.sources.own();
  BOREAS_CHECK(own.size() == graph.num_dst(), shape, "{} own sources are not the {} destinations", own.size(),
               graph.num_dst());
  const int64_t* const dst_ptr = graph.dst_ptr.as<int64_t>();
  const int32_t* const src_of = graph.src_of.as<int32_t>();
  const auto is_own = [&](int32_t row) { return row >= own.begin && row < own.end; };

  InteriorFirst result;
  result.nodes.resize(size_t(own.size()));
  std::iota(result.nodes.begin(), result.nodes.end(), 0);
  const auto boundary = std::stable_partition(result.nodes.begin(), result.nodes.end(), [&](int32_t node) {
    return std::all_of(src_of + dst_ptr[node], src_of + dst_ptr[node + 1], is_own);
  });
  result.num_interior = boundary - result.nodes.begin();

  std::vector<int32_t> place(result.nodes.size()), sources;
  for (size_t i = 0; i < place.size(); ++i) place[size_t(result.nodes[i])] = int32_t(i);
  std::vector<int64_t> pointers{0};
  for (const int32_t node : result.nodes) {
    for (int64_t m = dst_ptr[node]; m < dst_ptr[node + 1]; ++m) {
      result.edges.push_back(int32_t(m));
      sources.push_back(is_own(src_of[m]) ? int32_t(own.begin) + place[size_t(src_of[m] - own.begin)] : src_of[m]);
    }
    pointers.push_back(int64_t(sources.size()));
  }
  result.part = std::move(part);
  result.part.graph = Graph::from_sorted(result.part.sources.num_rows(), own.size(), pointers, sources);
  result.part.sources.reorder_own(result.nodes);
  return result;
}

RankGraph make_rank_graph(Graph whole) {
  RankGraph result{.graph = {},
                   .sources = RowExchange::local(whole.num_src()),
                   .dst = {0, whole.num_dst()},
                   .edges = {0, whole.num_edges()}};
  result.graph = std::move(whole);
  return result;
}

}  // namespace boreas
