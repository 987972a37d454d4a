#include "comm/rank_graph.h"

#include <algorithm>

namespace boreas {

RankGraph make_rank_graph(Communicator& ranks, const Graph& whole, const Partition& src_owners,
                          const Partition& dst_owners, ExchangeKind kind, Device device) {
  BOREAS_CHECK(src_owners.size() == whole.num_src() && dst_owners.size() == whole.num_dst(), shape,
               "a graph of {} sources and {} destinations cannot be split like {} and {} rows", whole.num_src(),
               whole.num_dst(), src_owners.size(), dst_owners.size());
  BOREAS_CHECK(dst_owners.num_parts() == ranks.size(), invalid_argument, "{} parts do not fit {} ranks",
               dst_owners.num_parts(), ranks.size());
  const Range dst = dst_owners[ranks.rank()];
  const Subgraph part = restrict_to(whole, dst);
  const int32_t* const src_ids = part.src_ids.as<int32_t>();
  const std::vector<int64_t> needed(src_ids, src_ids + part.graph.num_src());
  RankGraph result{.graph = {}, .sources = {}, .dst = dst, .edges = part.edges};
  result.sources = RowExchange::make(ranks, src_owners, needed, kind, device);

  const std::vector<int64_t>& ids = result.sources.ids();
  std::vector<int32_t> position(needed.size());  // of a source of `part` among the rows
  for (size_t i = 0; i < needed.size(); ++i)
    position[i] = int32_t(std::lower_bound(ids.begin(), ids.end(), needed[i]) - ids.begin());
  std::vector<int32_t> src_of(size_t(part.graph.num_edges()));
  for (size_t m = 0; m < src_of.size(); ++m) src_of[m] = position[size_t(part.graph.src_of.as<int32_t>()[m])];
  result.graph = Graph::from_sorted(result.sources.num_rows(), dst.size(),
                                    {part.graph.dst_ptr.as<int64_t>(), size_t(dst.size() + 1)}, src_of);
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
